"""Which rows count as learned after the training file has changed."""

import json
from pathlib import Path

import pytest

from imprint.cli import main
from imprint.evaluate.training_rows import load_training_rows
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
    assert load_training_rows(source, tools=False).samples == []


def test_a_run_that_does_not_say_what_it_learned_is_scored_with_a_note(
    changed: tuple[RunFolder, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, rows = changed
    run.learned_rows.unlink()
    assert main(["evaluate", str(run.path), "max_new_tokens=1", "--limit", "1"]) == 0
    said = f"does not say which rows it learned from, as bundles and runs of earlier versions do not: if {rows} has changed since"
    assert said in capsys.readouterr().out
