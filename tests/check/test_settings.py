from pathlib import Path

import pytest

from imprint.check.settings import read_settings
from imprint.data.limits import LengthLimits
from imprint.data.sample import Sample
from imprint.messages import UserError
from imprint.tokenizers import VOCABULARY_FILE
from tests.families import chatglm2_folder
from tests.tiny import tiny_base

SAMPLE = Sample("类型#上衣*颜色#白色", "这件上衣的颜色是白色。", None, "a:1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with nothing in it but its recipe."""
    folder = tmp_path_factory.mktemp("settings")
    tiny_base(folder / "base")
    (folder / "run").mkdir()
    recipe = f"model: {{path: {folder}/base}}\ndata: {{train: rows.jsonl, prompt_column: q, max_target_length: 24, truncation: original}}\n"
    (folder / "run" / "config.yaml").write_text(recipe, encoding="utf-8")
    return folder / "run"


def test_without_a_model_the_toy_base_and_the_defaults_of_a_recipe_count() -> None:
    settings = read_settings(None, [])
    assert (settings.prompt_column, settings.limits, settings.truncation) == ("content", None, "oldest_first")
    assert settings.columns.is_default
    assert "toy base" in settings.summary()
    assert settings.summary().endswith("limits chosen from the rows / 长度上限按数据选定")


def test_limits_that_are_not_given_fit_into_what_the_model_reads() -> None:
    toy = read_settings("embedded", ["max_source_length=400"]).with_limits_for(LengthLimits(900, 900))
    unknown = read_settings(None, []).with_limits_for(LengthLimits(3000, 900))
    assert toy.limits == LengthLimits(400, 256)
    assert unknown.limits == LengthLimits(1148, 900)


def test_a_run_gives_its_columns_limits_and_tokens(run: Path) -> None:
    settings = read_settings(str(run), [])
    assert (settings.prompt_column, settings.max_target_length, settings.truncation) == ("q", 24, "original")
    assert len(settings.tokenizer) == len(read_settings(str(run.parent / "base"), []).tokenizer)
    assert "data.truncation=original" in settings.summary()


def test_an_override_counts_more_than_the_run_and_may_be_written_as_in_a_recipe(run: Path) -> None:
    assert read_settings(str(run), ["max_target_length=9"]).max_target_length == 9
    assert read_settings(str(run), ["data.max_target_length=9"]).max_target_length == 9


def test_a_template_may_be_named_as_in_a_recipe(tmp_path: Path) -> None:
    chatglm2_folder(tmp_path)
    assert read_settings(str(tmp_path), []).template.name == "chatglm2"
    assert read_settings(str(tmp_path), ["model.template=chatglm3"]).template.name == "chatglm3"


def test_a_folder_without_weights_will_do(run: Path, tmp_path: Path) -> None:
    for name in ("config.json", VOCABULARY_FILE):
        (tmp_path / name).write_bytes((run.parent / "base" / name).read_bytes())
    assert len(read_settings(str(tmp_path), []).tokenizer) > 0
    (tmp_path / VOCABULARY_FILE).unlink()
    with pytest.raises(UserError, match=r"has no tokenizer \(ice_text.model\)"):
        read_settings(str(tmp_path), [])


@pytest.mark.parametrize("override", ["max_source_length=3", "lenght=9", "truncation=middle"])
def test_a_mistaken_override_is_reported(override: str) -> None:
    with pytest.raises(UserError, match=override.partition("=")[0]):
        read_settings(None, [override])


def test_a_folder_that_is_not_there_is_reported() -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        read_settings("nowhere", [])


@pytest.mark.parametrize("truncation", ["oldest_first", "original"])
def test_a_row_is_cut_where_it_is_longer_than_a_limit_and_nowhere_else(truncation: str) -> None:
    whole = read_settings(None, [f"truncation={truncation}"]).encode_untruncated(SAMPLE)
    source, target = whole.labels.count(-100), sum(label != -100 for label in whole.labels)
    fitting = read_settings(None, [f"truncation={truncation}", f"max_source_length={source}", f"max_target_length={target}"])
    assert fitting.encode(SAMPLE) == whole
    shorter = read_settings(None, [f"truncation={truncation}", f"max_source_length={source - 1}", f"max_target_length={target - 1}"])
    assert len(shorter.encode(SAMPLE).ids) == len(whole.ids) - 2


def test_a_run_on_texts_gives_how_they_are_read_and_counts_less_than_an_override(run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    recipe = f"model: {{path: {run.parent}/base}}\ndata: {{kind: texts, train: books, length: 99, blank_lines: true}}\n"
    (tmp_path / "run" / "config.yaml").write_text(recipe, encoding="utf-8")
    texts = read_settings(str(tmp_path / "run"), ["data.length=64"]).texts
    assert texts is not None
    assert (texts.length, texts.blank_lines) == (64, True)
    assert read_settings(str(tmp_path / "run"), ["kind=rows"]).texts is None
    assert read_settings(str(run), [], ["rows.jsonl"]).texts is None
