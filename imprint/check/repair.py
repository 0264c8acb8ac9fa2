"""Rows as they were meant: what can be mended in one, what was done for it, and why others cannot be."""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from imprint.check.text_checks import LOST_CHARACTER, clean_text
from imprint.data.readers.bad_rows import BadRowError
from imprint.data.sample import Sample
from imprint.data.shapes import RowShape, samples_from_row

MAX_DEPTH: Final = 20
"""Levels of lists and objects in which texts are tidied."""
ESCAPED: Final = re.compile("[\udc00-\udcff]")
"""Bytes that the encoding of a file does not know, as the reader hands them on."""
TRAILING_COMMA: Final = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', re.DOTALL)
"""A comma with nothing behind it; texts are matched too, so that what stands in them is left alone."""
PYTHON_DICT: Final = re.compile(r"\{\s*'")
"""How an object starts that Python has printed."""
LONGEST_LITERAL: Final = 1_000_000
"""Characters of a broken line that is worth reading."""


@dataclass(frozen=True)
class RepairedRow:
    """A row after all that can be done for it."""

    row: dict[str, object]
    """The row, every text in it tidied; empty where it is no object."""
    samples: list[Sample]
    """What it gives to learn from; none where it stays bad."""
    repairs: frozenset[str]
    """What was mended: kinds of findings, and `json`, `encoding`, `columns`, `numbers` and `unanswered`."""
    problem: str
    """Why it stays bad; empty where it does not."""


def repair_row(value: object, shape: RowShape, location: str, *, tools: bool = False) -> RepairedRow:
    """Tidy the texts and the names of columns of a row, write numbers as text, and leave out a last question without an answer.

    `tools`: see `samples_from_row`.
    """
    done: set[str] = set()
    if isinstance(value, BadRowError):
        problem = str(value)
        value = parse_broken_json(value.text, done)
        if value is None:
            return RepairedRow({}, [], frozenset(), problem)
    assert isinstance(value, dict), "a reader gives objects and what is wrong with other rows"
    row = _with_text_values(_clean_columns(value, done), shape, done)
    if shape.kind == "conversation":
        row = _without_open_question(row, shape.prompt, done)
    try:
        samples = samples_from_row(row, shape, location, tools=tools)
    except BadRowError as error:
        return RepairedRow(row, [], frozenset(), str(error))
    if not samples:
        return RepairedRow(row, [], frozenset(), "has no answer to learn from.")
    for text in sample_texts(samples[-1]):
        if lost := LOST_CHARACTER.search(text):
            around = text[max(lost.start() - 10, 0) : lost.end() + 10]
            return RepairedRow(row, [], frozenset(), f'has lost a character, in "{around}". Export the row again from where it came.')
    return RepairedRow(row, samples, frozenset(done), "")


def parse_broken_json(line: str, done: set[str]) -> dict[str, object] | None:
    """The object of a line that is no JSON for a reason that leaves no doubt of what is meant; what was mended for it goes into `done`.

    Such are another encoding than that of the file, raw control characters in a text, a comma too many, and Python's way of writing.
    """
    encoded = _in_another_encoding(line)
    text = (encoded or line).strip().removesuffix(",")
    if not text.startswith("{") or len(text) > LONGEST_LITERAL or ESCAPED.search(text):
        return None
    try:
        if PYTHON_DICT.match(text):
            value = ast.literal_eval(text)
        else:
            plain = TRAILING_COMMA.sub(lambda found: found[1] or "", text)
            value = json.loads(plain, strict=False, object_pairs_hook=_without_repetition)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        return None
    done.add("encoding" if encoded else "json")
    return value


def _without_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("which of two values is meant is for a person to decide")
    return made


def _in_another_encoding(line: str) -> str | None:
    """The line in the other of UTF-8 and GB18030, where most of what is not ASCII does not fit the encoding of the file."""
    escaped = len(ESCAPED.findall(line))
    if not escaped or 2 * escaped < sum(not character.isascii() for character in line):
        return None
    for codec, other in (("utf-8", "gb18030"), ("gb18030", "utf-8")):
        try:
            return line.encode(codec, "surrogateescape").decode(other)
        except UnicodeError:
            continue
    return None


def sample_texts(sample: Sample) -> Iterator[str]:
    """The texts of a sample in the order in which they are said: system, turns, question, answer."""
    yield sample.system or ""
    for turn in sample.history or ():
        yield from turn
    yield sample.query
    yield sample.answer


def _clean(value: object, done: set[str], depth: int = 0) -> object:
    """The value with every text in it tidied, and every name without blanks."""
    if isinstance(value, str):
        mended, kinds = clean_text(value)
        done.update(kinds)
        return mended
    if isinstance(value, list) and depth < MAX_DEPTH:
        return [_clean(item, done, depth + 1) for item in value]
    if isinstance(value, dict) and depth < MAX_DEPTH:
        return _clean_columns(value, done, depth + 1)
    return value


def _clean_columns(row: Mapping[str, object], done: set[str], depth: int = 0) -> dict[str, object]:
    names = {name: clean_text(name)[0] for name in row}
    if len(set(names.values())) < len(names):
        names = {name: name for name in row}  # two columns would become one
    if any(name != tidied for name, tidied in names.items()):
        done.add("columns")
    return {names[name]: _clean(item, done, depth) for name, item in row.items()}


def _with_text_values(row: dict[str, object], shape: RowShape, done: set[str]) -> dict[str, object]:
    """The row with its columns in the case of the first row's, and numbers for a question or an answer written as text."""
    wanted = {name.lower(): name for name in shape.read_columns if name not in row}
    mended = {wanted.get(name.lower(), name): value for name, value in row.items()}
    if len(mended) < len(row):
        mended = dict(row)  # two columns would become one
    if mended.keys() != row.keys():
        done.add("columns")
    for name in (shape.prompt, shape.response):
        if isinstance(value := mended.get(name), int | float) and not isinstance(value, bool):
            mended[name] = str(value)
            done.add("numbers")
    return mended


def _without_open_question(row: dict[str, object], column: str, done: set[str]) -> dict[str, object]:
    """The conversation without a last question that nobody answers."""
    turns = row.get(column)
    if not isinstance(turns, list) or len(turns) < 3 or not isinstance(turns[-1], dict):
        return row
    if turns[-1].get("role", turns[-1].get("from")) not in ("user", "human"):
        return row
    done.add("unanswered")
    return {**row, column: turns[:-1]}
