from pathlib import Path

import pytest

from imprint.messages import UserError
from imprint.training import trackio
from tests.tinyrun import tiny_recipe, tiny_run


def test_a_run_is_logged_to_trackio_without_an_account_and_resumes_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read at the first import
    pytest.importorskip("trackio", reason="trackio is not installed")
    from trackio.sqlite_storage import SQLiteStorage

    recipe = tiny_recipe(tmp_path)
    for steps in (4, 6):
        tiny_run(recipe, "a run", "train.tracker=trackio", f"train.steps={steps}")
    assert SQLiteStorage.get_runs("imprint") == ["a run"]
    lines = SQLiteStorage.get_logs("imprint", "a run")
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2, 3, 4, 5, 6]
    assert any("train/eval_loss" in line for line in lines)
    assert any("sample" in line for line in lines)


def test_a_machine_without_the_package_is_told_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackio, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r'train\.tracker=trackio: the package "trackio" is not installed'):
        tiny_run(tiny_recipe(tmp_path), "run", "train.tracker=trackio")
    assert not (tmp_path / "run").exists()
