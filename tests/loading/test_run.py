from pathlib import Path

import pytest

from imprint.errors import UserError
from imprint.loading.base import EMBEDDED
from imprint.loading.load import load_run, open_tokenizer
from imprint.loading.run import read_run
from imprint.runs import RunFolder
from tests.tinyrun import tiny_recipe, tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return tiny_run(tiny_recipe(tmp_path_factory.mktemp("trained")), "run")


def test_a_run_says_its_base_and_its_data_and_a_model_folder_says_nothing(run: RunFolder) -> None:
    found = read_run(run.path)
    assert found is not None
    assert found.model.path == str(run.path.parent / "base")
    assert found.data.train == run.path.parent / "rows.jsonl"
    assert read_run(run.path.parent / "base") is None
    assert read_run(Path(EMBEDDED)) is None


def test_a_run_opens_with_what_was_tuned_and_without_it_where_the_base_is_asked_for(run: RunFolder) -> None:
    found = read_run(run.path)
    assert load_run(run.path, found).encoder is not None
    assert load_run(run.path, found, base=True).encoder is None


def test_a_model_folder_opens_with_an_adapter_and_a_run_with_none_but_its_own(run: RunFolder) -> None:
    assert load_run(run.path.parent / "base", None, adapter=run.adapter).encoder is not None
    with pytest.raises(UserError, match="is a run, which has its own"):
        load_run(run.path, read_run(run.path), adapter=run.adapter)


def test_a_folder_that_is_neither_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no such folder\. Give a run folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"has neither config\.yaml nor config\.json\. Give a run folder"):
        read_run(tmp_path)


def test_a_run_without_an_adapter_yet_is_told(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(run.config.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(UserError, match="has no adapter yet"):
        load_run(tmp_path, read_run(tmp_path))


def test_the_tokenizer_of_a_run_is_its_base_s_and_no_weights_are_read(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("imprint.loading.load.load")
    base = run.path.parent / "base"
    ids = open_tokenizer(base, None).encode("类型")
    assert open_tokenizer(run.path, read_run(run.path)).encode("类型") == ids
    assert open_tokenizer(Path(EMBEDDED), None).encode("类型")


def test_a_folder_without_a_tokenizer_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=r"has no tokenizer \(ice_text\.model\)\. Copy the official file"):
        open_tokenizer(tmp_path, None)


def test_a_run_is_asked_with_the_source_prefix_that_it_was_trained_with(run: RunFolder) -> None:
    found = read_run(run.path)
    assert found is not None
    asked = found.model_copy(update={"data": found.data.model_copy(update={"source_prefix": "颜色"})})
    plain, prefixed = load_run(run.path, found), load_run(run.path, asked)
    assert prefixed.prompt("白色上衣") == plain.prompt("颜色白色上衣")
