import json
import subprocess
import sys
from pathlib import Path

import pytest

from imprint.errors import UserError
from imprint.training import trackio
from tests.tinyrun import tiny_recipe, tiny_run

READ = """
import json
from trackio.sqlite_storage import SQLiteStorage
print(json.dumps({name: SQLiteStorage.get_logs("imprint", name) for name in SQLiteStorage.get_runs("imprint")}))
"""


def test_a_run_is_logged_to_trackio_without_an_account_and_goes_on_there_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trackio", reason="trackio is not installed")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    recipe = tiny_recipe(tmp_path)
    command = [sys.executable, "-m", "imprint", "train", str(recipe), f"output={tmp_path / 'a run'}", "train.tracker=trackio"]
    for steps in ("train.steps=4", "train.steps=6"):
        subprocess.run([*command, steps], check=True, capture_output=True)
    read = subprocess.run([sys.executable, "-c", READ], check=True, capture_output=True, text=True)
    runs = json.loads(read.stdout)
    assert list(runs) == ["a run"]
    losses = [line["step"] for line in runs["a run"] if "train/loss" in line]
    assert losses == [1, 2, 3, 4, 5, 6]
    assert any("train/eval_loss" in line for line in runs["a run"])
    assert any("sample" in line for line in runs["a run"])


def test_a_machine_without_the_package_is_told_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackio, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r'train\.tracker=trackio: the package "trackio" is not installed'):
        tiny_run(tiny_recipe(tmp_path), "run", "train.tracker=trackio")
    assert not (tmp_path / "run").exists()
