from pathlib import Path

import pytest

from imprint.config import read_recipe
from imprint.data.section import DataSection
from imprint.loading.run import RunConfig, data_knobs
from imprint.runs import RunFolder
from tests.tinyrun import tiny_recipe, tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return tiny_run(tiny_recipe(tmp_path_factory.mktemp("trained")), "run", "train.steps=1")


def test_a_run_names_its_base_and_its_data(run: RunFolder) -> None:
    config = read_recipe(run.config, [], RunConfig)
    assert config.model.path == str(run.path.parent / "base")
    assert config.data.train == run.path.parent / "rows.jsonl"
    assert config.data_section is config.data


def test_sections_of_another_version_are_not_read(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(run.config.read_text(encoding="utf-8") + "\nnew_section: {knob: 1}\n", encoding="utf-8")
    assert read_recipe(tmp_path / "config.yaml", [], RunConfig) == read_recipe(run.config, [], RunConfig)


def test_a_run_on_raw_text_reads_questions_by_default(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {path: embedded}\ndata: {kind: texts, train: books.txt}\n", encoding="utf-8")
    assert read_recipe(tmp_path / "config.yaml", [], RunConfig).data_section == DataSection(train=Path("books.txt"))


def test_the_base_may_have_another_path(run: RunFolder) -> None:
    config = read_recipe(run.config, [], RunConfig)
    assert config.with_base_path(None) is config
    moved = config.with_base_path(Path("elsewhere"))
    assert moved.model.path == "elsewhere"
    assert moved.data == config.data


def test_data_knobs_are_those_of_the_run_or_a_recipes_defaults(run: RunFolder) -> None:
    config = read_recipe(run.config, [], RunConfig)
    assert data_knobs(["max_source_length"], config) == {"max_source_length": config.data_section.max_source_length}
    assert data_knobs(["prompt_column", "truncation"], None) == {"prompt_column": "content", "truncation": "oldest_first"}
