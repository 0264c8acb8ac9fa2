"""Warnings of rows that a model learned before its own run, or as general rows."""

import json
from pathlib import Path

import pytest

from imprint.cli import main
from imprint.config import read_recipe
from imprint.data.learned_rows import LearnedRows
from imprint.data.sample import Sample
from imprint.evaluate.learned_before import MAX_RUNS, earlier_runs, learned_before_warnings
from imprint.loading.run import RunConfig
from imprint.loading.source import ModelSource
from imprint.messages import Bilingual
from imprint.runs import RunFolder


def rows(*numbers: int) -> list[Sample]:
    return [Sample(f"q{number}", f"a{number}", None, f"rows.jsonl:{number}") for number in numbers]


def written_run(folder: Path, *numbers: int, model: object = "base", tune: object = None, general: object = None) -> RunFolder:
    """A run folder as far as it says what was learned."""
    run = RunFolder(folder)
    run.path.mkdir()
    data = {"train": "rows.jsonl", "mix_general": general}
    config = {"model": {"path": str(model)}, "data": data, "tune": {"method": "lora", "adapter": tune and str(tune)}}
    run.config.write_text(json.dumps(config), encoding="utf-8")
    LearnedRows.of(rows(*numbers)).write(run.learned_rows)
    return run


def source(run: RunFolder) -> ModelSource:
    return ModelSource(run.path, run.path, read_recipe(run.config, [], RunConfig))


def warnings(given: ModelSource, *numbers: int, adapter: Path | None = None, base: bool = False) -> list[Bilingual]:
    return learned_before_warnings(given, rows(*numbers), adapter=adapter, base=base, tools=False)


def test_rows_that_an_earlier_adapter_learned_are_warned_of_through_all_that_were_continued(tmp_path: Path) -> None:
    first = written_run(tmp_path / "a", 1, 2, 3)
    second = written_run(tmp_path / "b", 4, tune=first.adapter)
    third = source(written_run(tmp_path / "c", 5, tune=second.path))
    (warning,) = warnings(third, 1, 2, 9)
    assert warning.english.startswith(f"2 of these 3 rows are rows that {first.path} learned from, which the model continues: their scores")
    assert warning.chinese.startswith(f"这 3 行中有 2 行在此前的训练 {first.path} 中学过：")
    assert len(warnings(third, 1, 4)) == 2
    assert warnings(third, 5, 9) == [], "its own rows have a warning of their own"
    assert warnings(third, 1, *range(10, 20)) == [], "a few rows are equal by chance"
    assert warnings(third, 1, base=True) == [], "the base has no adapter"
    first.learned_rows.unlink()
    assert warnings(third, 1, 2) == [], "without a record nothing can be said"


@pytest.mark.parametrize("result", ["", "model"])
def test_a_run_whose_result_is_the_base_was_learned_from_by_the_base_too(tmp_path: Path, result: str) -> None:
    first = written_run(tmp_path / "a", 1)
    second = source(written_run(tmp_path / "b", 2, model=first.path / result))
    for base in (False, True):
        assert [warning.english[:9] for warning in warnings(second, 1, base=base)] == ["1 of thes"]


def test_an_adapter_that_is_added_and_a_model_in_a_run_folder_are_followed(tmp_path: Path) -> None:
    run = written_run(tmp_path / "a", 1)
    for adapter in (run.path, run.adapter, run.adapter / "pytorch_model.bin"):
        assert len(warnings(ModelSource(Path("model"), Path("model"), None), 1, adapter=adapter)) == 1
    assert len(warnings(ModelSource(run.model, run.model, None), 1)) == 1


def test_runs_that_continue_each_other_end_and_a_broken_one_is_left_out(tmp_path: Path) -> None:
    first = written_run(tmp_path / "a", 1, tune=tmp_path / "b")
    second = written_run(tmp_path / "b", 2, tune=first.path)
    assert [folder.path for folder, _run in earlier_runs(source(second), None, base=False)] == [first.path]
    first.config.write_text("[", encoding="utf-8")
    assert warnings(source(second), 1) == []
    for number in range(MAX_RUNS + 10):
        last = written_run(tmp_path / f"{number}", tune=tmp_path / f"{number - 1}")
    assert len(list(earlier_runs(source(last), None, base=False))) == MAX_RUNS - 1


def test_general_rows_that_were_mixed_in_are_warned_of_but_not_those_that_the_base_answered(tmp_path: Path) -> None:
    file = tmp_path / "general.jsonl"
    lines = [json.dumps({"content": row.query, "summary": row.answer}) + "\n" for row in rows(1, 2)]
    file.write_text("{}\n" + "".join(lines), encoding="utf-8")
    run = written_run(tmp_path / "a", 5, general={"rows": str(file)})
    later = source(written_run(tmp_path / "b", 6, tune=run.path, general={"rows": str(file)}))
    for given in (source(run), later):
        (warning,) = warnings(given, 1, 9)
        assert warning.english.startswith(f"1 of these 2 rows are in {file}, the general rows that the model learned too: their scores")
        assert warning.chinese.startswith(f"这 2 行中有 1 行在混入训练的通用数据 {file} 中：")
    assert warnings(source(run), 1, base=True) == []
    assert warnings(source(written_run(tmp_path / "c", general={"rows": str(file), "answers": "base"})), 1) == []
    (tmp_path / "base").mkdir()
    file.rename(tmp_path / "base" / "general.jsonl")
    assert warnings(later, 1) == [], "the file is not there any more"
    assert len(warnings(source(written_run(tmp_path / "d", model=tmp_path / "base", general={})), 1)) == 1


def test_evaluate_and_compare_warn_of_rows_that_an_earlier_run_learned(
    changed: tuple[RunFolder, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _rows = changed
    file = tmp_path / "before.jsonl"
    file.write_text("".join(json.dumps({"content": row.query, "summary": row.answer}) + "\n" for row in rows(1, 2)), encoding="utf-8")
    first = written_run(tmp_path / "first", 1, 2)
    config = run.config.read_text(encoding="utf-8")
    assert "  adapter: null\n" in config
    run.config.write_text(config.replace("  adapter: null\n", f"  adapter: {first.path}\n"), encoding="utf-8")
    said = f"warning: 2 of these 2 rows are rows that {first.path} learned from"
    assert main(["evaluate", str(run.path), "--data", str(file), "max_new_tokens=1"]) == 0
    assert said in capsys.readouterr().out
    assert main(["compare", str(run.path), "--data", str(file), "max_new_tokens=1"]) == 0
    assert said in capsys.readouterr().out
