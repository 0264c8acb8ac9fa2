"""Questions without answers: one per line of a text file, or those of rows of data."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

from imprint.data.long_rows import refuse_long_row
from imprint.data.readers.bad_rows import BadRowError, non_empty_text, quote_names
from imprint.data.readers.encodings import detect_encoding, read_chunks, read_lines, undecodable_error
from imprint.data.readers.rows import read_rows
from imprint.data.readers.samples import collect_samples
from imprint.data.readers.sources import parse_source, plain_encoding, unreadable_error
from imprint.data.sample import Sample
from imprint.data.shapes import RowShape, published_shape, samples_from_row, with_last_answer
from imprint.data.turns import JUDGED_COLUMNS
from imprint.messages import Bilingual, UserError

TABLE_SUFFIXES: Final = (".csv", ".tsv", ".xlsx", ".parquet", ".arrow")
JSON_START: Final = re.compile(r'\s*(\[\s*)?\{\s*"')
"""Start of JSON lines and of a JSON array of objects."""
NO_ANSWER: Final = "-"
ANSWER_COLUMN: Final = "\0answer"
"""The column of NO_ANSWER in a row without an answer; no row has it."""
QUESTION_COLUMNS: Final = ("prompt", "query", "question", "instruction", "content", "context", "input", "问题", "提问")
"""Names of a column of questions, in order of preference."""


def read_questions(path: Path, *, prompt_column: str, limit: int | None = None) -> list[Sample]:
    """Read questions from the lines of a text file or from rows of data, with or without answers; all samples have an empty answer.

    The question of a row is in `prompt_column`, else it is that of a known shape, else it is in one of QUESTION_COLUMNS. `limit`: number
    of questions to read. Raises UserError for a file that cannot be read or has no questions, and one UserError for all bad lines.
    """
    rows = _row_questions(path, prompt_column) if holds_rows(path) else _line_questions(path)
    samples = collect_samples(islice(rows, limit), path, Bilingual("Fix {}; nothing was asked.", "请修正这些数据；没有提问。"))
    if not samples:
        raise UserError(
            Bilingual(
                f"{path} holds no question. Write one per line, or give rows of data.",
                f"{path}：文件中没有问题：请每行写一个问题，或给出数据文件。",
            )
        )
    return samples


def holds_rows(path: Path) -> bool:
    """Whether a file holds rows of data, not plain text, by its suffix or its beginning. Raises UserError if it cannot be read."""
    source = parse_source(path)
    if source.count is not None or source.path.is_dir() or source.path.suffix.lower() in TABLE_SUFFIXES:
        return True
    try:
        head = next(read_chunks(path, detect_encoding(path)), "")
    except FileNotFoundError as error:
        raise UserError(
            Bilingual(
                f"{path}: there is no such file. Give a text with one question per line, or rows of data.",
                f"{path}：没有这个文件：请给出每行一个问题的文本，或数据文件。",
            )
        ) from error
    except OSError as error:
        raise unreadable_error(path, error) from error
    return JSON_START.match(head.lstrip("\ufeff")) is not None


def _line_questions(path: Path) -> Iterator[tuple[str, list[Sample] | BadRowError]]:
    """The (location, question or error) of each line that is not blank."""
    encoding = plain_encoding(path)
    for number, line in read_lines(path, encoding):
        location = f"{path}:{number}"
        if isinstance(line, BadRowError):
            yield location, line
        elif problem := undecodable_error(line, encoding):
            yield location, problem
        elif query := line.strip("\ufeff \t\r\n\u3000"):
            try:
                yield location, _question(query, location)
            except BadRowError as too_long:
                yield location, too_long


def _question(text: str, location: str) -> list[Sample]:
    """The sample of a question alone. Raises BadRowError for one that is too long."""
    samples = [Sample(text, "", None, location)]
    refuse_long_row(samples)
    return samples


def _row_questions(path: Path, prompt_column: str) -> Iterator[tuple[str, list[Sample] | BadRowError]]:
    """The (location, questions or error) of each row; a conversation has a question for each answer, with the earlier turns."""
    for location, row in read_rows(path):
        try:
            yield location, _questions_of_row(row, prompt_column, location)
        except BadRowError as problem:
            yield location, problem


def _questions_of_row(row: object, prompt_column: str, location: str) -> list[Sample]:
    if isinstance(row, BadRowError):
        raise row
    assert isinstance(row, dict), "readers yield objects or BadRowErrors"
    if prompt_column in row:
        return _question(non_empty_text(row[prompt_column], prompt_column), location)
    shape = published_shape(row) or _shape_without_answer(row)
    # The answer is not used, and may be empty or missing, or a bad one.
    row = {name: value for name, value in row.items() if name not in JUDGED_COLUMNS}
    answered = {**row, shape.response: NO_ANSWER} if shape.response else with_last_answer(row, shape, NO_ANSWER)
    return [replace(sample, answer="") for sample in samples_from_row(answered, shape, location)]


def _shape_without_answer(row: Mapping[str, object]) -> RowShape:
    """The shape of a row that has a question, with what belongs to it, and no answer. Raises BadRowError without a question."""
    name = next((name for name in QUESTION_COLUMNS if name in row), None)
    if name is None:
        columns = quote_names(row)
        raise BadRowError(
            Bilingual(
                f"has no column of questions ({columns.english}). Name it: prompt_column=...",
                f"没有提问列；现有列：{columns.chinese}。请用 prompt_column=... 指定。",
            )
        )
    return RowShape("alpaca" if name == "instruction" else "pair", name, ANSWER_COLUMN)
