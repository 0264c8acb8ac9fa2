from pathlib import Path

import pytest

from imprint.cli import main
from imprint.data.sample import Sample
from imprint.evaluate.held_out import training_rows_warning
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
