"""Questions with what a right answer holds, and when an answer is right or the same as another."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imprint.data.readers.bad_rows import BadRowError, BadRows, describe_value
from imprint.data.readers.encodings import detect_encoding, read_lines, undecodable_error
from imprint.data.readers.questions import holds_rows, read_questions
from imprint.data.readers.rows import read_rows
from imprint.errors import UserError

KEYS: Final = "answer"
"""The column of what a right answer holds: a text, or a list of texts of which one is enough."""


@dataclass(frozen=True)
class Probe:
    """One question that both models are asked."""

    question: str
    """What is asked."""
    keys: tuple[str, ...] = ()
    """An answer that holds one of these is right; empty where nobody said what is right."""


def read_probes(path: Path, limit: int | None = None) -> list[Probe]:
    """Read questions: one a line, or rows of data, whose column `answer` says what a right answer holds.

    `limit` takes at most so many, from all over the file: questions of a kind stand together. Raises UserError for a file that cannot be
    read or holds no question, and for all bad rows together.
    """
    questions = read_questions(path, prompt_column="question")
    if limit is not None and limit < len(questions):
        questions = [questions[place * len(questions) // limit] for place in range(limit)]
    keys = _keys(path) if holds_rows(path) else {}
    return [Probe(asked.query, keys.get(asked.location, ())) for asked in questions]


def read_texts(path: Path) -> list[str]:
    """The lines of a text that are not blank. Raises UserError for a file that is no text or has none."""
    try:
        encoding = detect_encoding(path)
        found = list(read_lines(path, encoding))
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file. Give a text with a piece a line.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    for number, line in found:
        if wrong := line if isinstance(line, BadRowError) else undecodable_error(line, encoding):
            raise UserError(f"{path}:{number}: {wrong}")
    texts = [line.strip("\ufeff \t\r\n\u3000") for _number, line in found if isinstance(line, str)]
    if not any(texts):
        raise UserError(f"{path} holds no text. Write a piece a line.")
    return [text for text in texts if text]


def is_right(answer: str, keys: Sequence[str]) -> bool:
    """Whether an answer holds one of the keys; a number or Latin word counts only where it does not go on: 12 is not in 112."""
    return any(holds(answer, key) for key in keys)


def holds(answer: str, text: str) -> bool:
    """Whether a text stands in an answer, whatever the case, the width of the letters and the blanks."""
    wanted = folded(text)
    before = r"(?<![0-9a-z])" if wanted[:1].isascii() and wanted[:1].isalnum() else ""
    behind = r"(?![0-9a-z])" if wanted[-1:].isascii() and wanted[-1:].isalnum() else ""
    return bool(wanted) and re.search(f"{before}{re.escape(wanted)}{behind}", folded(answer)) is not None


def is_same(one: str, other: str) -> bool:
    """Whether two answers are the same, but for case, width and blanks."""
    return folded(one) == folded(other)


def folded(text: str) -> str:
    """The text in one case and width (NFKC), with single blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _keys(path: Path) -> dict[str, tuple[str, ...]]:
    """Place of a row -> its keys."""
    found: dict[str, tuple[str, ...]] = {}
    problems = BadRows(path)
    for place, row in read_rows(path):
        if not isinstance(row, dict) or KEYS not in row:
            continue
        value = row[KEYS]
        keys = [value] if isinstance(value, str) else value
        if isinstance(keys, list) and keys and all(isinstance(key, str) and key.strip() for key in keys):
            found[place] = tuple(keys)
        else:
            problems.add(place, BadRowError(f'"{KEYS}" must be a text or a list of texts, none empty, got {describe_value(value)}.'))
    problems.raise_if_any("Mend {}; nothing was asked.")
    return found
