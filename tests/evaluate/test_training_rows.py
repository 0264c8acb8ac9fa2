"""Which rows count as learned after the training file has changed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest

import imprint.data.recorded_rows as recorded_rows
import imprint.evaluate.held_out as held_out
import imprint.evaluate.training_rows as training_rows
from imprint.cli import main
from imprint.data.dataset import held_out_indices, load_samples
from imprint.data.held_out import HeldOutRecord, rows_of
from imprint.data.learned_rows import LearnedRows
from imprint.data.readers.samples import iterate_samples
from imprint.data.sample import Sample
from imprint.data.section import DataSection
from imprint.evaluate.held_out import run_held_out
from imprint.evaluate.training_rows import learned_rows, load_training_rows
from imprint.files.atomic import read_jsonl
from imprint.loading.source import resolve_source
from imprint.messages import UserError
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
    numbers = [int(sample.location.rpartition(":")[2]) for sample in whole.samples]
    place = next(place for place, number in enumerate(numbers) if lines.count(lines[number - 1]) == 1)
    removed, number = whole.samples[place], numbers[place]
    lines[number - 1] = json.dumps({"content": removed.query, "summary": "改过的回答"}, ensure_ascii=False) + "\n"
    rows.write_text("".join(lines), encoding="utf-8")
    left = load_training_rows(source, tools=False)
    expected = [(sample.query, sample.answer) for sample in whole.samples if sample != removed]
    assert sorted((sample.query, sample.answer) for sample in left.samples) == sorted(expected)
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


def plain_lines(numbers: list[int]) -> str:
    return "".join(json.dumps({"content": f"q{number}", "summary": f"a{number}"}) + "\n" for number in numbers)


@pytest.mark.parametrize("held_out_number", [0, 1, 4])
def test_a_row_that_was_held_out_and_learned_counts_as_both_when_its_copies_are_dropped(tmp_path: Path, held_out_number: int) -> None:
    file = tmp_path / "rows.jsonl"
    others = [number for number in range(5) if number != held_out_number]
    drawn = held_out_indices(DataSection(train=file, dev_share=0.1), 10)[0]
    numbers = [*others, *others, held_out_number]
    file.write_text(plain_lines([*numbers[:drawn], held_out_number, *numbers[drawn:]]), encoding="utf-8")
    section = DataSection(train=file, dev_share=0.1)
    run, learned, held_out = recorded(tmp_path, section)
    assert (held_out, len(learned)) == ([f"q{held_out_number}"], 5)
    copied = "1 of the 1 held-out rows are among its training rows too, as copies of them"
    assert copied in str(run_held_out(run, section, tools=False)[1])
    file.write_text(plain_lines(list(range(5))), encoding="utf-8")
    now = learned_rows(run, section, tools=False)
    assert ({sample.query for sample in now.samples}, len(now.samples), now.note) == (learned, 5, None)
    samples, note = run_held_out(run, section, tools=False)
    assert [sample.query for sample in samples] == held_out
    assert copied in str(note)
    assert "训练数据中有相同的行" in str(note)


def test_copies_of_held_out_rows_may_be_dropped(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    section = DataSection(train=file, dev_share=0.2)
    drawn = held_out_indices(section, 10)
    numbers = [90 if place in drawn else place for place in range(10)]
    file.write_text(plain_lines(numbers), encoding="utf-8")
    run, learned, held_out = recorded(tmp_path, section)
    assert held_out == ["q90", "q90"]
    file.write_text(plain_lines(sorted(set(numbers))), encoding="utf-8")
    samples, note = run_held_out(run, section, tools=False)
    assert [sample.query for sample in samples] == ["q90"]
    assert "All 1 rows that the run held out, without 1 copies of them, are still in it" in str(note)
    assert {sample.query for sample in learned_rows(run, section, tools=False).samples} == learned
    file.write_text(plain_lines(list(range(10))), encoding="utf-8")
    with pytest.raises(UserError, match="Of the 2 rows that the run held out, 2 are not in it any more"):
        run_held_out(run, section, tools=False)


def test_a_damaged_record_is_not_told_as_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(plain_lines(list(range(20))), encoding="utf-8")
    section = DataSection(train=file, dev_share=0.2)
    run, learned, _held_out = recorded(tmp_path, section)
    run.held_out.write_text("{", encoding="utf-8")
    found = learned_rows(run, section, tools=False)
    assert ({sample.query for sample in found.samples}, found.note) == (learned, None)
    with pytest.raises(UserError, match=r"held-out\.json: "):
        run_held_out(run, section, tools=False)
    file.write_text(plain_lines(list(range(100, 110))) + file.read_text(encoding="utf-8"), encoding="utf-8")
    assert {sample.query for sample in learned_rows(run, section, tools=False).samples} == learned
    run.learned_rows.write_bytes(b"damaged")
    note = str(learned_rows(run, section, tools=False).note)
    assert f"{run.learned_rows} is damaged, so it is not known which rows the run learned from" in note
    assert "earlier versions" not in note
    assert "记录学过哪些行的文件已损坏" in note


@pytest.mark.parametrize("dev_share", [0, 0.2])
def test_of_a_file_that_has_grown_only_the_rows_that_were_learned_are_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dev_share: float
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(plain_lines(list(range(20))), encoding="utf-8")
    section = DataSection(train=file, dev_share=dev_share)
    run, learned, questions = recorded(tmp_path, section)
    with file.open("a", encoding="utf-8") as opened:
        opened.write(plain_lines(list(range(100, 3000))))
    living, most = WeakSet[Sample](), 0

    def watched(*arguments: Any, **options: Any) -> Iterator[Any]:
        nonlocal most
        for location, row in iterate_samples(*arguments, **options):
            living.update(row if isinstance(row, list) else [])
            most = max(most, len(living))
            yield location, row

    monkeypatch.setattr(recorded_rows, "iterate_samples", watched)
    monkeypatch.setattr(training_rows, "load_samples", None)
    if questions:
        monkeypatch.setattr(held_out, "load_samples", None)
        samples, note = run_held_out(run, section, tools=False)
        assert [sample.query for sample in samples] == questions
        assert "it had 20 rows and has 2,920." in str(note)
    assert {sample.query for sample in learned_rows(run, section, tools=False).samples} == learned
    assert most < 30
