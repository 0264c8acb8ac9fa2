import json
from pathlib import Path

from imprint.report.run_scores import EvaluationScores, before_and_after, read_scores
from imprint.runs import RunFolder


def write(run: RunFolder, name: str, content: object) -> None:
    folder = run.evaluations / name
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def test_scores_are_read_by_evaluation_and_damaged_ones_left_out(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    write(run, "dev", {"rows": 40, "task": "classification", "accuracy": {"value": 71.0}, "empty": 0, "broken": {"value": "x"}})
    write(run, "half", "{")
    write(run, "old", {"rouge-l": {"value": 3}, "rows": True, "task": 5, "huge": {"value": 1e300}, "unknown": {"value": 5}, "rouge-1": 3})
    assert read_scores(run) == [
        EvaluationScores("dev", "accuracy", 40, {"accuracy": 71.0}),
        EvaluationScores("old", "rouge-l", None, {"rouge-l": 3}),
    ]


def test_the_base_stands_beside_the_tuned_model_and_most_rows_come_first() -> None:
    few, many = (EvaluationScores(name, "rouge-l", rows, {"rouge-l": 1.0}) for name, rows in (("few", 3), ("many", 9)))
    base = EvaluationScores("few-base", "rouge-l", 3, {"rouge-l": 0.5})
    unscored = EvaluationScores("prompts-x", "rouge-l", 99, {})
    assert before_and_after([few, base, many, unscored]) == [(None, many), (base, few)]
