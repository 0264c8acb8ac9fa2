"""Repairs of bad rows, where only one meaning is possible."""

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from imprint.check.text_checks import LOST_CHARACTER, clean_text
from imprint.data.readers.bad_rows import BadRowError, too_deep
from imprint.data.sample import Sample
from imprint.data.shapes import RowShape, samples_from_row
from imprint.messages import Bilingual

MAX_DEPTH: Final = 20
"""Levels of lists and objects in which texts are cleaned."""
ESCAPED: Final = re.compile("[\udc00-\udcff]")
"""Bytes that the encoding of a file cannot decode, as the reader escapes them (`surrogateescape`)."""
TRAILING_COMMA: Final = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', re.DOTALL)
"""A trailing comma; strings are matched too, so that commas inside them stay."""
PYTHON_DICT: Final = re.compile(r"\{\s*'")
"""Start of an object in Python syntax."""
LONGEST_LITERAL: Final = 1_000_000
"""Maximum characters of a broken line that is parsed."""


@dataclass(frozen=True)
class RepairedRow:
    """A row after all repairs."""

    row: dict[str, object]
    """The row with clean texts; empty if it is no object."""
    samples: list[Sample]
    """Its samples; none if it stays bad."""
    repairs: frozenset[str]
    """Names of the repairs: kinds of findings, and `json`, `encoding`, `columns`, `numbers` and `unanswered`."""
    problem: Bilingual | None
    """Why it stays bad; None if it is repaired."""


def repair_row(value: object, shape: RowShape, location: str, *, tools: bool = False) -> RepairedRow:
    """Clean the texts and column names of a row, convert numbers to text, and drop a last question without an answer.

    `tools`: see `samples_from_row`.
    """
    repairs: set[str] = set()
    if isinstance(value, BadRowError):
        problem = value.reason
        value = parse_broken_json(value.text, repairs)
        if value is None:
            return RepairedRow({}, [], frozenset(), problem)
    assert isinstance(value, dict), "readers yield objects or BadRowErrors"
    row = _with_text_values(_clean_columns(value, repairs), shape, repairs)
    if shape.kind == "conversation":
        row = _without_open_question(row, shape.prompt, repairs)
    try:
        samples = samples_from_row(row, shape, location, tools=tools)
    except BadRowError as error:
        return RepairedRow(row, [], frozenset(), error.reason)
    if not samples:
        return RepairedRow(row, [], frozenset(), Bilingual("has no answer to learn from.", "没有可学的回答。"))
    for text in sample_texts(samples[-1]):
        if lost := LOST_CHARACTER.search(text):
            excerpt = text[max(lost.start() - 10, 0) : lost.end() + 10]
            lost_one = Bilingual(
                f'has lost a character, in "{excerpt}". Export the row again from its source.',
                f'丢失了字符，内容为 "{excerpt}"：请从来源重新导出该行。',
            )
            return RepairedRow(row, [], frozenset(), lost_one)
    return RepairedRow(row, samples, frozenset(repairs), None)


def parse_broken_json(line: str, repairs: set[str]) -> dict[str, object] | None:
    """The object of a line that is no valid JSON but has only one possible meaning; adds the name of the repair to `repairs`.

    Handles another encoding than the file's, raw control characters in strings, trailing commas and Python syntax; None for all else.
    """
    encoded = _in_another_encoding(line)
    text = (encoded or line).strip().removesuffix(",")
    if not text.startswith("{") or len(text) > LONGEST_LITERAL or ESCAPED.search(text):
        return None
    try:
        if PYTHON_DICT.match(text):
            value = ast.literal_eval(text)
        else:
            plain = TRAILING_COMMA.sub(lambda match: match[1] or "", text)
            value = json.loads(plain, strict=False, object_pairs_hook=_unique_keys)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value) or too_deep(value):
        return None
    repairs.add("encoding" if encoded else "json")
    return value


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a repeated key has more than one possible meaning")
    return value


def _in_another_encoding(line: str) -> str | None:
    """The line decoded as the other of UTF-8 and GB18030, if most of its non-ASCII bytes do not fit the encoding of the file."""
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
    """The texts of a sample in order: system, turns, question, answer."""
    yield sample.system or ""
    for turn in sample.history or ():
        yield from turn
    yield sample.query
    yield sample.answer
    yield from (message.text for message in sample.further_messages)


def _clean(value: object, repairs: set[str], depth: int = 0) -> object:
    """The value with clean texts and clean names."""
    if isinstance(value, str):
        text, kinds = clean_text(value)
        repairs.update(kinds)
        return text
    if isinstance(value, list) and depth < MAX_DEPTH:
        return [_clean(item, repairs, depth + 1) for item in value]
    if isinstance(value, dict) and depth < MAX_DEPTH:
        return _clean_columns(value, repairs, depth + 1)
    return value


def _clean_columns(row: Mapping[str, object], repairs: set[str], depth: int = 0) -> dict[str, object]:
    names = {name: clean_text(name)[0] for name in row}
    if len(set(names.values())) < len(names):
        names = {name: name for name in row}  # two columns would be merged
    if any(name != clean for name, clean in names.items()):
        repairs.add("columns")
    return {names[name]: _clean(item, repairs, depth) for name, item in row.items()}


def _with_text_values(row: dict[str, object], shape: RowShape, repairs: set[str]) -> dict[str, object]:
    """The row with column names in the case of the first row, and a number as prompt or answer converted to text."""
    missing = {name.lower(): name for name in shape.read_columns if name not in row}
    repaired = {missing.get(name.lower(), name): value for name, value in row.items()}
    if len(repaired) < len(row):
        repaired = dict(row)  # two columns would be merged
    if repaired.keys() != row.keys():
        repairs.add("columns")
    for name in _text_columns(shape):
        value = repaired.get(name)
        if (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and math.isfinite(value)):
            repaired[name] = str(value)
            repairs.add("numbers")
    return repaired


def _text_columns(shape: RowShape) -> tuple[str, ...]:
    """The columns of a row that hold one text."""
    if shape.kind == "conversation":
        return ()
    return (shape.prompt, shape.response, *((shape.name_of("input"),) if shape.kind == "alpaca" else ()))


def _without_open_question(row: dict[str, object], column: str, repairs: set[str]) -> dict[str, object]:
    """The conversation without a last question that has no answer."""
    turns = row.get(column)
    if not isinstance(turns, list) or len(turns) < 3 or not isinstance(turns[-1], dict):
        return row
    if turns[-1].get("role", turns[-1].get("from")) not in ("user", "human"):
        return row
    repairs.add("unanswered")
    return {**row, column: turns[:-1]}
