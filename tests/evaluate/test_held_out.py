import json
from pathlib import Path

import pytest

from imprint.cli import main
from imprint.data.sample import Sample
from imprint.evaluate.held_out import training_rows_warning
from imprint.files.atomic import read_jsonl
from imprint.runs import RunFolder


def row(number: int, answer: str = "a") -> Sample:
    return Sample(f"question {number}", answer, None, f"rows.jsonl:{number}")


def test_a_file_of_training_rows_is_warned_of_and_a_few_equal_rows_are_not() -> None:
    training = [row(number) for number in range(20)]
    warning = training_rows_warning([*training[:10], row(30)], training)
    assert warning is not None
    assert warning.english.startswith("10 of these 11 rows are rows that the run learned from")
    assert warning.chinese.startswith("这 11 行中有 10 行是训练过的")
    assert training_rows_warning([training[0], *(row(number) for number in range(30, 40))], training) is None
    assert training_rows_warning([row(1, "another answer")], training) is None, "the same question with another answer"
    assert training_rows_warning(training, []) is None, "the training rows cannot be read any more"


def test_scores_on_training_rows_begin_with_a_warning_but_not_those_of_the_base(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learned = run.path.parent / "other.jsonl"
    assert main(["evaluate", str(run.path), "--data", str(learned), "--limit", "2", f"output={tmp_path / 'tuned'}"]) == 0
    assert "warning: 2 of these 2 rows are rows that the run learned from" in capsys.readouterr().out
    assert main(["evaluate", str(run.path), "--data", str(learned), "--limit", "2", "base=true", f"output={tmp_path / 'base'}"]) == 0
    assert "learned from" not in capsys.readouterr().out


def asked(folder: Path) -> list[str]:
    return [line["input"] for line in read_jsonl(folder / "predictions.jsonl")]


def test_rows_added_after_training_change_no_held_out_row(
    changed: tuple[RunFolder, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, rows = changed
    assert main(["evaluate", str(run.path), f"output={tmp_path / 'before'}"]) == 0
    assert "changed" not in capsys.readouterr().out
    had = rows.read_text(encoding="utf-8")
    added = "".join(json.dumps({"content": f"新问题{number}", "summary": "新"}, ensure_ascii=False) + "\n" for number in range(30))
    rows.write_text(added + had, encoding="utf-8")
    said = f"has changed since the run was trained: it had {len(had.splitlines())} rows and has {len(had.splitlines()) + 30}.\nAll 5 rows"
    assert main(["evaluate", str(run.path), f"output={tmp_path / 'after'}"]) == 0
    assert said in capsys.readouterr().out
    assert asked(tmp_path / "after") == asked(tmp_path / "before")
    assert main(["compare", str(run.path)]) == 0
    assert said in capsys.readouterr().out
    assert asked(run.evaluations / "held-out-base") == asked(tmp_path / "before")
    assert main(["forgetting", str(run.path), "max_new_tokens=1"]) == 0
    assert said in capsys.readouterr().out
    assert {line["question"] for line in read_jsonl(run.before_after)} <= set(asked(tmp_path / "before"))


def test_held_out_rows_that_are_gone_are_refused_with_their_number(
    changed: tuple[RunFolder, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, rows = changed
    had = rows.read_text(encoding="utf-8").splitlines(keepends=True)
    rows.write_text("".join(had[: len(had) // 2]), encoding="utf-8")
    for command in ("evaluate", "compare"):
        assert main([command, str(run.path)]) == 2
        said = capsys.readouterr().err
        assert f"it had {len(had)} rows and has {len(had) // 2}." in said
        assert "Of the 5 rows that the run held out, " in said
        assert "Put the old file back, or give rows with --data." in said


def test_a_run_that_does_not_say_what_it_held_out_is_scored_with_a_warning(
    changed: tuple[RunFolder, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, rows = changed
    run.held_out.unlink()
    assert main(["evaluate", str(run.path)]) == 0
    said = capsys.readouterr().out
    assert f"does not say which rows it held out, since an earlier version wrote it: if {rows} has changed since" in said
    assert "5 rows: " in said
