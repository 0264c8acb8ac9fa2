"""Which rows count as learned after the training file has changed."""

import json
from pathlib import Path
from typing import Any

import pytest

from imprint.cli import main
from imprint.data.dataset import load_samples
from imprint.data.held_out import HeldOutRecord, rows_of
from imprint.data.learned_rows import LearnedRows
from imprint.data.section import DataSection
from imprint.evaluate.held_out import run_held_out
from imprint.evaluate.training_rows import learned_rows, load_training_rows
from imprint.files.atomic import read_jsonl
from imprint.loading.source import resolve_source
from imprint.runs import RunFolder


def test_an_answer_that_was_added_later_is_no_copy_of_a_learned_one(
    changed: tuple[RunFolder, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, rows = changed
    asked = ["evaluate", str(run.path), "max_new_tokens=3"]
    assert main([*asked, f"output={tmp_path / 'before'}"]) == 0
    before = json.loads((tmp_path / "before" / "scores.json").read_text(encoding="utf-8"))
    assert "training_rows" not in before
    assert "the run learned" not in capsys.readouterr().out
    answers = {line["prediction"] for line in read_jsonl(tmp_path / "before" / "predictions.jsonl")}
    added = [{"content": f"新问题{number}", "summary": answer} for number, answer in enumerate(answers) if answer]
    text = rows.read_text(encoding="utf-8")
    rows.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in added) + text, encoding="utf-8")
    assert main([*asked, f"output={tmp_path / 'after'}"]) == 0
    after = json.loads((tmp_path / "after" / "scores.json").read_text(encoding="utf-8"))
    assert after["copied_share"] == before["copied_share"] < 1
    assert after["training_rows"].startswith(f"{rows}: {len(added)} of the answers that are read from it now are not what the run learned")
    assert f"现在从训练文件读到的回答中有 {len(added)} 个并非该次训练学过的，不算学过。" in capsys.readouterr().out


def test_the_rows_of_a_changed_file_are_those_that_the_run_learned(changed: tuple[RunFolder, Path]) -> None:
    run, rows = changed
    source = resolve_source(run.path)
    whole = load_training_rows(source, tools=False)
    assert whole.note is None
    lines = rows.read_text(encoding="utf-8").splitlines(keepends=True)
    first = next(place for place, line in enumerate(lines) if json.loads(line)["summary"] == whole.samples[0].answer)
    lines[first] = json.dumps({"content": whole.samples[0].query, "summary": "改过的回答"}, ensure_ascii=False) + "\n"
    rows.write_text("".join(lines), encoding="utf-8")
    left = load_training_rows(source, tools=False)
    assert left.samples == whole.samples[1:]
    assert left.note is not None
    assert f"1 of the {len(whole.samples)} answers that the run learned are not read from it now" in left.note.english
    rows.unlink()
    gone = load_training_rows(source, tools=False)
    assert gone.samples == []
    assert gone.note is not None
    assert "so it is not known which of these rows and answers it learned" in gone.note.english


def test_a_run_that_does_not_say_what_it_learned_is_scored_with_a_note(
    changed: tuple[RunFolder, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, rows = changed
    run.learned_rows.unlink()
    assert main(["evaluate", str(run.path), "max_new_tokens=1", "--limit", "1"]) == 0
    said = f"does not say which rows it learned from, as bundles and runs of earlier versions do not: if {rows} has changed since"
    assert said in capsys.readouterr().out


def written(file: Path, numbers: list[int]) -> None:
    file.write_text("".join(map(line_of, numbers)), encoding="utf-8")


def line_of(number: int) -> str:
    return json.dumps({"content": f"问{number}", "summary": f"{{name}}答{number}"}, ensure_ascii=False) + "\n"


def recorded(folder: Path, section: DataSection) -> tuple[RunFolder, set[str], list[str]]:
    """A folder with the records of a run, the questions that it learned, and those that it held out."""
    run = RunFolder(folder)
    learned, held_out = load_samples(section)
    LearnedRows.of(learned).write(run.learned_rows)
    if held_out:
        HeldOutRecord.of(len(rows_of(learned)) + len(rows_of(held_out)), held_out).write(run.held_out)
    return run, {sample.query for sample in learned}, [sample.query for sample in held_out]


@pytest.mark.parametrize("drawn", [{"count": "#20"}, {"train_rows": 20}, {"count": "#30", "train_rows": 20}])
@pytest.mark.parametrize("dev_share", [0, 0.2])
def test_rows_that_were_drawn_from_a_file_are_found_in_all_of_it(tmp_path: Path, drawn: dict[str, Any], dev_share: float) -> None:
    file = tmp_path / "rows.jsonl"
    written(file, list(range(60)))
    train = Path(f"{file}{drawn.get('count', '')}")
    section = DataSection(train=train, train_rows=drawn.get("train_rows"), dev_share=dev_share, fill={"name": "小墨"})
    run, learned, held_out = recorded(tmp_path, section)
    unchanged = learned_rows(run, section, tools=False)
    assert ({sample.query for sample in unchanged.samples}, unchanged.note) == (learned, None)
    written(file, [*range(100, 160), *range(60), *range(200, 260)])
    with file.open("a", encoding="utf-8") as opened:
        opened.write('{"content": "坏", "summary": 1.5}\n' + json.dumps({"content": "问", "summary": "{other}"}) + "\n")
    found = learned_rows(run, section, tools=False)
    assert ({sample.query for sample in found.samples}, found.note) == (learned, None)
    assert all(sample.answer.startswith("小墨答") for sample in found.samples)
    if held_out:
        still, note = run_held_out(run, section, tools=False)
        assert [sample.query for sample in still] == held_out
        assert "so other rows are taken of it now. All of its rows were searched.\nAll 4 rows that the run" in str(note)
    left = sorted(int(query[1:]) for query in learned)[:-2]
    written(file, [*range(100, 160), *left])
    fewer = learned_rows(run, section, tools=False)
    assert sorted(int(sample.query[1:]) for sample in fewer.samples) == left
    assert fewer.note is not None
    assert f"2 of the {len(learned)} answers that the run learned are not read from it now" in fewer.note.english


def test_a_bad_row_that_was_added_and_a_lost_record_of_what_was_held_out_hide_no_learned_row(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    written(file, list(range(20)))
    section = DataSection(train=file, dev_share=0.2, fill={"name": "小墨"})
    run, learned, _held_out = recorded(tmp_path, section)
    run.held_out.unlink()
    with file.open("a", encoding="utf-8") as opened:
        opened.write(line_of(20))
    assert {sample.query for sample in learned_rows(run, section, tools=False).samples} == learned
    with file.open("a", encoding="utf-8") as opened:
        opened.write('{"content": "坏"}\n')
    assert {sample.query for sample in learned_rows(run, section, tools=False).samples} == learned
