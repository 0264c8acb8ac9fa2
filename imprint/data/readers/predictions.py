"""Predictions and references from the files of common tools.

Sources of the column names: main.py of ChatGLM-6B's ptuning ("labels", "predict"), LLaMA-Factory's generated_predictions.jsonl ("prompt",
"predict", "label"), the results of `swift infer` ("response", "labels"; "label" in older releases), and our own predictions.jsonl ("input",
"label", "prediction").
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imprint.data.readers.bad_rows import BadRowError, BadRows, label_as_text, must_be, quote, quote_names
from imprint.data.readers.rows import read_rows
from imprint.files.atomic import read_jsonl
from imprint.files.reading import read_json
from imprint.messages import Bilingual, UserError

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
"""Names of a column of predictions, in order of preference."""
REFERENCE_COLUMNS: Final = ("label", "labels", "reference", "references", "target", "ground_truth", "gold", "标签", "参考答案", "参考")
"""Names of a column of references, in order of preference."""
AMBIGUOUS_COLUMNS: Final = ("response", "output", "answer", "summary", "completion", "回答", "答案")
"""Names that mean predictions beside a column of references, and references beside one of predictions."""


MAX_SCORED_CHARACTERS: Final = 100_000
"""Most characters of an answer or a reference that are scored."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of a model and their references."""

    prediction_column: str
    """Name of the column of predictions."""
    reference_column: str
    """Name of the column of references."""
    predictions: list[str]
    """Predictions, in file order."""
    references: list[str]
    """References, in file order."""
    unfinished: int | None
    """Number of answers that hit the token limit; None if unknown."""
    references_cut_to: int | None
    """Maximum tokens of the references, if known to be truncated."""


def read_predictions(file: Path) -> Predictions:
    """Read a file of predictions: JSON lines, a JSON array or a table; columns are recognized by name.

    A boolean column `finished`, or the answers.jsonl of `imprint evaluate` beside the file, tells which answers ended by themselves. Raises
    UserError for a file that cannot be read or has no known columns, and one UserError for all bad rows.
    """
    if file.is_dir():
        inside = next((file / name for name in ("predictions.jsonl", "generated_predictions.txt") if (file / name).exists()), None)
        raise UserError(
            Bilingual(
                f"{file} is a folder. Name the file of predictions in it" + (f": {inside}." if inside else "."),
                f"{file}：这是一个目录：请给出其中的预测文件" + (f"：{inside}。" if inside else "。"),
            )
        )
    rows = list(read_rows(file))
    if not rows:
        raise UserError(Bilingual(f"{file} holds no rows, so there is nothing to score.", f"{file}：文件中没有数据行，没有可计分的内容。"))
    counts = Counter(name for _location, row in rows if isinstance(row, dict) for name in row)
    prediction_column, reference_column = _columns(counts, file) if counts else ("", "")
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
    flags = finished if all(isinstance(value, bool) for value in finished) else _finished_beside(file, predictions)
    unfinished = None if flags is None else sum(not flag for flag in flags)
    return Predictions(prediction_column, reference_column, predictions, references, unfinished, _reference_limit_beside(file))


def _columns(counts: Mapping[str, int], file: Path) -> tuple[str, str]:
    """The names of the columns of predictions and of references; of several known ones that which most rows have.

    `counts`: column -> number of rows that have it.
    """
    prediction_column, reference_column = (
        max(_present_names(known, counts), key=lambda name: counts[name], default=None) for known in (PREDICTION_COLUMNS, REFERENCE_COLUMNS)
    )
    ambiguous = sorted(_present_names(AMBIGUOUS_COLUMNS, counts), key=lambda name: -counts[name])
    if prediction_column is None and reference_column is not None and ambiguous:
        prediction_column = ambiguous[0]
    if reference_column is None and prediction_column is not None and ambiguous:
        reference_column = ambiguous[0]
    if prediction_column is not None and reference_column is not None:
        return prediction_column, reference_column
    columns = quote_names(counts)
    missing = "predictions" if prediction_column is None else "references"
    if prediction_column is None and reference_column is None:
        missing = "predictions and none of references"
    beside = file.with_name("predictions.jsonl")
    if file.name == "answers.jsonl" and beside.exists():
        raise UserError(
            Bilingual(
                f"{file}: holds answers without references. Score {beside}, which has them.",
                f"{file}：该文件没有参考答案：请改用 {beside}。",
            )
        )
    raise UserError(
        Bilingual(
            f"{file}: no column of {missing} is known among its columns ({columns.english}). Rename the columns: predictions to one of "
            f"{', '.join(PREDICTION_COLUMNS[:4])}, references to one of {', '.join(REFERENCE_COLUMNS[:4])}.",
            f"{file}：没有认出预测列或参考答案列：请把预测列改名为 {PREDICTION_COLUMNS[0]}，参考答案列改名为 {REFERENCE_COLUMNS[0]}。",
        )
    )


def _present_names(known: Iterable[str], counts: Mapping[str, int]) -> list[str]:
    """The known names that a file has, in their order; if it has none, those that it writes in another case."""
    by_lower_case = {name.lower(): name for name in counts}
    return [name for name in known if name in counts] or [by_lower_case[name] for name in known if name in by_lower_case]


def _text(row: object, column: str) -> str:
    """A text, which may be empty."""
    if isinstance(row, BadRowError):
        raise row
    assert isinstance(row, dict), "readers yield objects or BadRowErrors"
    if column not in row:
        columns = quote_names(row)
        raise BadRowError(
            Bilingual(
                f'there is no column "{column}", which other rows have; the columns are: {columns.english}.',
                f"缺少其他行都有的 {quote(column)} 列；现有列：{columns.chinese}。",
            )
        )
    value = label_as_text(row[column])
    if not isinstance(value, str):
        raise must_be(column, "a text", "文本", value)
    if len(value) > MAX_SCORED_CHARACTERS:
        raise BadRowError(too_long_to_score(quote(column), len(value)))
    return value


def too_long_to_score(what: str, characters: int) -> Bilingual:
    """The message about a text, named by `what`, of more than MAX_SCORED_CHARACTERS."""
    return Bilingual(
        f"{what} has {characters:,} characters, and {MAX_SCORED_CHARACTERS:,} at most are scored: comparing words takes time that grows "
        "with the square of a text.",
        f"{what} 有 {characters:,} 个字符，计分的文本至多 {MAX_SCORED_CHARACTERS:,} 个字符。",
    )


def _finished_beside(file: Path, predictions: list[str]) -> Iterable[bool] | None:
    """Which answers ended by themselves, by an `answers.jsonl` beside the file with the same answers; None without one."""
    try:
        lines = read_jsonl(file.with_name("answers.jsonl"))
    except (UserError, OSError, UnicodeDecodeError):
        return None
    answers: dict[int, tuple[str, bool]] = {}
    for line in lines:
        match line:
            case {"row": int(row), "prediction": str(prediction), "finished": bool(finished)}:
                answers[row] = prediction.strip(), finished
    same = [row in answers and answers[row][0] == text.strip() for row, text in enumerate(predictions)]
    return [answers[row][1] for row in range(len(predictions))] if all(same) else None


def _reference_limit_beside(file: Path) -> int | None:
    """Maximum tokens of the references, by the scores.json of `imprint evaluate` beside the file; None if unknown."""
    if file.name not in ("predictions.jsonl", "generated_predictions.txt"):
        return None
    try:
        scores = read_json(file.with_name("scores.json"))
    except (OSError, ValueError, RecursionError, UserError):
        return None
    limit = scores.get("references_cut_to") if isinstance(scores, dict) else None
    return limit if type(limit) is int and limit > 0 else None
