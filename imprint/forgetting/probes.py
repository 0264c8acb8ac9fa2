"""Probe questions with their accepted answers, and the comparison of answers."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from imprint.data.readers.bad_rows import BadRowError, BadRows, must_be
from imprint.data.readers.encodings import detect_encoding, read_lines, undecodable_error
from imprint.data.readers.questions import holds_rows, read_questions
from imprint.data.readers.rows import read_rows
from imprint.messages import Bilingual, UserError

ANSWER_COLUMN: Final = "answer"
"""The column of accepted texts: a text, or a list of texts of which a correct answer contains at least one."""


@dataclass(frozen=True)
class Probe:
    """One question for both models."""

    question: str
    """The question."""
    accepted: tuple[str, ...] = ()
    """An answer that contains one of these is correct; empty if there is no reference."""


def read_probes(path: Path, limit: int | None = None) -> list[Probe]:
    """Read questions: one a line, or data rows whose column `answer` has the accepted texts.

    `limit` selects at most so many, spread evenly over the file, because similar questions are adjacent. Raises UserError for a file that
    is unreadable or has no question, and one for all bad rows.
    """
    questions = read_questions(path, prompt_column="question")
    if limit is not None and limit < len(questions):
        questions = [questions[index * len(questions) // limit] for index in range(limit)]
    accepted = _accepted_answers(path) if holds_rows(path) else {}
    return [Probe(question.query, accepted.get(question.location, ())) for question in questions]


def read_texts(path: Path) -> list[str]:
    """The lines of a text file that are not blank. Raises UserError for a file that is unreadable or blank."""
    try:
        encoding = detect_encoding(path)
        numbered = list(read_lines(path, encoding))
    except FileNotFoundError as error:
        raise UserError(
            Bilingual(
                f"{path}: there is no such file. Give a text file with one text per line.",
                f"{path}：没有这个文件。请给出每行一段的文本文件。",
            )
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise UserError(Bilingual(f"{path} cannot be read: {reason}.", f"{path} 无法读取：{reason}。")) from error
    for number, line in numbered:
        if problem := line if isinstance(line, BadRowError) else undecodable_error(line, encoding):
            raise UserError(Bilingual(f"{path}:{number}: {problem}", f"{path}:{number}：{problem.reason.chinese}"))
    texts = [line.strip("\ufeff \t\r\n\u3000") for _number, line in numbered if isinstance(line, str)]
    if not any(texts):
        raise UserError(Bilingual(f"{path} holds no text. Write one text per line.", f"{path} 中没有文本。请每行写一段。"))
    return [text for text in texts if text]


def is_correct(answer: str, accepted: Sequence[str]) -> bool:
    """Whether an answer contains one of the accepted ones; numbers and Latin words must match as a whole: 12 is not in 112."""
    return any(contains(answer, text) for text in accepted)


def contains(answer: str, text: str) -> bool:
    """Whether an answer contains a text, ignoring case, width of letters and whitespace."""
    expected = normalize(text)
    before = r"(?<![0-9a-z])" if expected[:1].isascii() and expected[:1].isalnum() else ""
    after = r"(?![0-9a-z])" if expected[-1:].isascii() and expected[-1:].isalnum() else ""
    return bool(expected) and re.search(f"{before}{re.escape(expected)}{after}", normalize(answer)) is not None


def is_same(one: str, other: str) -> bool:
    """Whether two answers are the same, ignoring case, width and whitespace."""
    return normalize(one) == normalize(other)


def normalize(text: str) -> str:
    """The text case-folded, in NFKC, with single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _accepted_answers(path: Path) -> dict[str, tuple[str, ...]]:
    """Location of a row -> its accepted answers."""
    accepted_by_row: dict[str, tuple[str, ...]] = {}
    bad_rows = BadRows(path)
    for location, row in read_rows(path):
        if not isinstance(row, dict) or ANSWER_COLUMN not in row:
            continue
        value = row[ANSWER_COLUMN]
        accepted = [value] if isinstance(value, str) else value
        if isinstance(accepted, list) and accepted and all(isinstance(text, str) and text.strip() for text in accepted):
            accepted_by_row[location] = tuple(accepted)
        else:
            bad_rows.add(location, must_be(ANSWER_COLUMN, "a text or a list of texts, none empty", "文本或文本的列表，且都不为空", value))
    bad_rows.raise_if_any(Bilingual("Fix {}; nothing was asked.", "请修正这些数据；没有提问。"))
    return accepted_by_row
