"""Predictions with their references, from the file of any tool.

Sources of the column names: main.py of ChatGLM-6B's ptuning ("labels", "predict"), LLaMA-Factory's generated_predictions.jsonl ("prompt",
"predict", "label"), the results of `swift infer` ("response", "labels"; "label" in older releases), and our own predictions.jsonl ("input",
"label", "prediction").
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imprint.data.readers.bad_rows import BadRowError, BadRows, describe_value
from imprint.data.readers.rows import read_rows
from imprint.errors import UserError
from imprint.files import read_jsonl
from imprint.messages import Bilingual

PREDICTION_COLUMNS: Final = (
    "predict",
    "prediction",
    "predictions",
    "pred",
    "hypothesis",
    "generated_text",
    "generated",
    "预测",
    "模型回答",
)
"""Names of a column of predictions, the surest first."""
REFERENCE_COLUMNS: Final = ("label", "labels", "reference", "references", "target", "ground_truth", "gold", "标签", "参考答案", "参考")
"""Names of a column of references, the surest first."""
AMBIGUOUS_COLUMNS: Final = ("response", "output", "answer", "summary", "completion", "回答", "答案")
"""Names that are a prediction beside a reference, and a reference beside a prediction, and that tell nothing alone."""


@dataclass(frozen=True)
class Predictions:
    """What some model said, and what it should have said."""

    prediction_column: str
    """Where the predictions were read."""
    reference_column: str
    """Where the references were read."""
    predictions: list[str]
    """What the model said, in the order of the file."""
    references: list[str]
    """What it should have said."""
    unfinished: int | None
    """How many answers the limit ended and not the model; None where the file does not tell."""
    references_cut_to: int | None
    """To how many tokens whoever wrote the file had cut the references, where that is known."""


def read_predictions(file: Path) -> Predictions:
    """Read a file of predictions: JSON lines, a JSON array or a table, its columns recognised by their names.

    A `finished` column says which answers ended by themselves; for what `imprint evaluate` wrote, the files beside it do. Raises UserError
    for a file that cannot be read or has no known columns, and one UserError for all bad rows together.
    """
    if file.is_dir():
        inside = next((file / name for name in ("predictions.jsonl", "generated_predictions.txt") if (file / name).exists()), None)
        raise UserError(f"{file} is a folder. Name the file of predictions in it" + (f": {inside}." if inside else "."))
    rows = list(read_rows(file))
    first = next((row for _place, row in rows if isinstance(row, dict)), None)
    if not rows:
        raise UserError(f"{file} holds no rows, so there is nothing to score.")
    prediction_column, reference_column = ("", "") if first is None else _columns(first, file)
    predictions, references, finished, problems = [], [], [], BadRows(file)
    for location, row in rows:
        try:
            predictions.append(_text(row, prediction_column))
            references.append(_text(row, reference_column))
            problems.good += 1
        except BadRowError as problem:
            problems.add(location, problem)
        finished.append(row.get("finished") if isinstance(row, dict) else None)
    problems.raise_if_any(Bilingual("Fix {}; nothing was scored.", "请修正这些数据；没有计分。"))
    known = finished if all(isinstance(value, bool) for value in finished) else _finished_beside(file, predictions)
    unfinished = None if known is None else sum(not value for value in known)
    return Predictions(prediction_column, reference_column, predictions, references, unfinished, _reference_limit_beside(file))


def _columns(row: Mapping[str, object], file: Path) -> tuple[str, str]:
    """The names of the columns of predictions and of references in a file's first row."""
    prediction_column = next((name for name in PREDICTION_COLUMNS if name in row), None)
    reference_column = next((name for name in REFERENCE_COLUMNS if name in row), None)
    ambiguous = [name for name in AMBIGUOUS_COLUMNS if name in row]
    if prediction_column is None and reference_column is not None and ambiguous:
        prediction_column = ambiguous[0]
    if reference_column is None and prediction_column is not None and ambiguous:
        reference_column = ambiguous[0]
    if prediction_column is not None and reference_column is not None:
        return prediction_column, reference_column
    there = ", ".join(f'"{name}"' for name in row) or "none"
    missing = "predictions" if prediction_column is None else "references"
    if prediction_column is None and reference_column is None:
        missing = "predictions and none of references"
    beside = file.with_name("predictions.jsonl")
    if file.name == "answers.jsonl" and beside.exists():
        raise UserError(f"{file}: holds answers without references. They are in {beside}: score that.")
    raise UserError(
        f"{file}: no column of {missing} is known among its columns ({there}). Rename the columns: predictions to one of "
        f"{', '.join(PREDICTION_COLUMNS[:4])}, references to one of {', '.join(REFERENCE_COLUMNS[:4])}."
    )


def _text(row: object, column: str) -> str:
    """A text, which may be empty: a model can say nothing."""
    if isinstance(row, BadRowError):
        raise row
    assert isinstance(row, dict), "read_rows gives objects or what is wrong with them"
    if column not in row:
        there = ", ".join(f'"{name}"' for name in row) or "none"
        raise BadRowError(f'there is no column "{column}", which the first row has; the columns are: {there}.')
    value = row[column]
    if not isinstance(value, str):
        raise BadRowError(f'"{column}" must be a text, got {describe_value(value)}.')
    return value


def _finished_beside(file: Path, predictions: list[str]) -> Iterable[bool] | None:
    """Which answers ended by themselves, where the `answers.jsonl` of an evaluation stands beside the file and has the same answers."""
    try:
        lines = read_jsonl(file.with_name("answers.jsonl"))
    except (UserError, OSError, UnicodeDecodeError):
        return None
    prediction_column: dict[int, tuple[str, bool]] = {}
    for line in lines:
        match line:
            case {"row": int(row), "prediction": str(prediction), "finished": bool(finished)}:
                prediction_column[row] = prediction.strip(), finished
    same = [row in prediction_column and prediction_column[row][0] == text.strip() for row, text in enumerate(predictions)]
    return [prediction_column[row][1] for row in range(len(predictions))] if all(same) else None


def _reference_limit_beside(file: Path) -> int | None:
    """To how many tokens `imprint evaluate` had cut the references when it wrote the file: its scores.json says so."""
    if file.name not in ("predictions.jsonl", "generated_predictions.txt"):
        return None
    try:
        scores = json.loads(file.with_name("scores.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    limit = scores.get("references_cut_to") if isinstance(scores, dict) else None
    return limit if isinstance(limit, int) else None
