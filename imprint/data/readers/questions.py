"""Questions without answers: a text with one a line, or the questions of rows of data."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Final

from imprint.data.readers.bad_rows import BadRowError, non_empty_text
from imprint.data.readers.encodings import detect_encoding, read_chunks, read_lines, undecodable_error
from imprint.data.readers.rows import read_rows
from imprint.data.readers.samples import collect_samples
from imprint.data.readers.sources import parse_source, plain_encoding
from imprint.data.sample import Sample
from imprint.data.shapes import published_shape, samples_from_row
from imprint.errors import UserError
from imprint.messages import Bilingual

TABLE_SUFFIXES: Final = (".csv", ".tsv", ".xlsx", ".parquet")
JSON_START: Final = re.compile(r'\s*(\[\s*)?\{\s*"')
"""How JSON lines and a JSON array of objects begin, and no question does."""
QUESTION_COLUMNS: Final = ("prompt", "query", "question", "instruction", "content", "context", "input", "问题", "提问")
"""Names of a column of questions, the surest first."""


def read_questions(path: Path, *, prompt_column: str, limit: int | None = None) -> list[Sample]:
    """Read questions: the lines of a text of any encoding, or rows of data with or without answers; all samples have an empty answer.

    Of rows, the column `prompt_column` is the question; where there is none, a known shape is, or a column that is called like a question.
    `limit` reads only so many. Raises UserError for a file that cannot be read or holds no question, and for all bad lines together.
    """
    rows = _row_questions(path, prompt_column) if holds_rows(path) else _line_questions(path)
    found = collect_samples(islice(rows, limit), path, Bilingual("Fix {}; nothing was asked.", "请修正这些数据；没有提问。"))
    if not found:
        raise UserError(f"{path} holds no question. Write one a line, or give rows of data.")
    return found


def holds_rows(path: Path) -> bool:
    """Whether a file is rows of data and no text, by its name or its beginning."""
    source = parse_source(path)
    if source.count is not None or source.path.is_dir() or source.path.suffix.lower() in TABLE_SUFFIXES:
        return True
    try:
        head = next(read_chunks(path, detect_encoding(path)), "")
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file. Give a text with one question a line, or rows of data.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    return JSON_START.match(head.lstrip("\ufeff")) is not None


def _line_questions(path: Path) -> Iterator[tuple[str, list[Sample] | BadRowError]]:
    """The (place, question) of each line that is not blank."""
    encoding = plain_encoding(path)
    for number, line in read_lines(path, encoding):
        location = f"{path}:{number}"
        if isinstance(line, BadRowError):
            yield location, line
        elif wrong := undecodable_error(line, encoding):
            yield location, wrong
        elif query := line.strip("\ufeff \t\r\n\u3000"):
            yield location, [Sample(query, "", None, location)]


def _row_questions(path: Path, prompt_column: str) -> Iterator[tuple[str, list[Sample] | BadRowError]]:
    """The (place, questions) of each row; a conversation asks one for each of its answers, with the turns before it."""
    for location, row in read_rows(path):
        try:
            yield location, _questions_of_row(row, prompt_column, location)
        except BadRowError as problem:
            yield location, problem


def _questions_of_row(row: object, prompt_column: str, location: str) -> list[Sample]:
    if isinstance(row, BadRowError):
        raise row
    assert isinstance(row, dict), "read_rows gives objects or what is wrong with them"
    if prompt_column not in row and (shape := published_shape(row)):
        asked = {**row, shape.response: "-"} if shape.response else row  # nobody reads the answer, and it may be empty
        return [replace(sample, answer="") for sample in samples_from_row(asked, shape, location)]
    return [Sample(_text(row, prompt_column), "", None, location)]


def _text(row: Mapping[str, object], prompt_column: str) -> str:
    name = next((name for name in (prompt_column, *QUESTION_COLUMNS) if name in row), None)
    if name is None:
        there = ", ".join(f'"{key}"' for key in row) or "none"
        raise BadRowError(f"has no column of questions ({there}). Name it: prompt_column=...")
    return non_empty_text(row[name], name)
