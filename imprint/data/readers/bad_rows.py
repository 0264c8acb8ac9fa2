"""Errors of rows, and descriptions of bad values."""

import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final

from imprint.messages import Bilingual, UserError, join_lines
from imprint.terminal import printable

MAX_LISTED: Final = 10
"""Number of bad rows that are listed whatever their kind."""
FIRST_OF_KIND: Final = 3
"""Number of bad rows of each kind that are listed in any case; the rest is counted."""
MAX_KINDS: Final = 50
"""Maximum number of kinds that are counted apart."""
OTHERS: Final = Bilingual("others", "其他")
"""The kind of the rows whose kind is not counted apart."""

ENOUGH_LACKING: Final = 1000
"""Number of rows after which no more are read if all of them lack the columns of question and answer."""
MAX_NESTED: Final = 100
"""Maximum levels of lists and objects in a row."""
MAX_NAMES: Final = 20
"""Maximum number of columns that an error names; the rest is counted."""
MAX_LABEL: Final = 10**18
"""Bound of the absolute value of a number that is a label."""


REASON_END: Final = re.compile(r", got |, but got |, in \"|(?<=a number): \"|; the columns are|; its columns are|(?<=of questions) \(")
"""Start of the part of a reason that differs from row to row."""
CHINESE_REASON_END: Final = re.compile(r"，实际为|，内容为|；现有列")
"""The same in Chinese."""


class BadRowError(ValueError):
    """What is wrong with one row, as the end of a sentence that starts with the row's location."""

    text: str = ""
    """The line of the file, if it could not be parsed."""
    is_empty: bool = False
    """Whether a text is there and blank."""

    def __init__(self, reason: Bilingual) -> None:
        super().__init__(reason.english)
        self.reason = reason
        """What is wrong."""

    def at(self, location: str) -> Bilingual:
        """The sentence that begins with the row's location."""
        return Bilingual(f"{location}: {self.reason.english}", f"{location}：{self.reason.chinese}")

    @cached_property
    def kind(self) -> Bilingual:
        """The reason without what differs from row to row: values, numbers of turns and of columns of a line."""
        english = re.sub(r"(?<=turn |lumn )\d+", "…", REASON_END.split(self.reason.english)[0])
        return Bilingual(english, re.sub(r"第 \d+", "第 …", CHINESE_REASON_END.split(self.reason.chinese)[0]))


class MissingColumnError(BadRowError):
    """A row that lacks the column of the question or of the answer; `guess`: knob -> column that may be meant."""

    def __init__(self, reason: Bilingual, guess: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(reason)
        self.guess = guess
        """Knob -> the column that may be meant; empty if there is no guess."""


class MissingColumnsError(UserError):
    """No row of a source has the columns of a question and an answer."""


class FirstOfEachKind:
    """Which bad rows are shown: the first MAX_LISTED ones, and of each kind the first FIRST_OF_KIND; the rest is counted."""

    def __init__(self) -> None:
        self.counts: Counter[Bilingual] = Counter()
        """Kind -> number of rows."""
        self.rest: Counter[Bilingual] = Counter()
        """Kind -> number of rows that are not shown."""
        self.total = 0
        """Number of rows."""

    def shows(self, problem: BadRowError) -> bool:
        """Count a bad row; returns whether it is shown."""
        self.total += 1
        kind = bounded_kind(problem.kind, self.counts)
        self.counts[kind] += 1
        shown = self.total <= MAX_LISTED or self.counts[kind] <= FIRST_OF_KIND
        self.rest[kind] += not shown
        return shown

    def rest_by_kind(self) -> Bilingual | None:
        """How many rows of each kind are not shown; None if all are."""
        rest = [(kind, count) for kind, count in self.rest.most_common() if count]
        if not rest:
            return None
        total = f"{sum(count for _kind, count in rest):,}"
        english = "; ".join(f"{count:,} × {kind.english.rstrip('.')}" for kind, count in rest)
        chinese = "；".join(f"{count:,} × {kind.chinese.rstrip('。')}" for kind, count in rest)
        return Bilingual(f"and {total} more: {english}", f"另有 {total} 行：{chinese}")


def bounded_kind(kind: Bilingual, counts: Collection[Bilingual]) -> Bilingual:
    """The kind, or OTHERS if it is new among MAX_KINDS already."""
    return kind if kind in counts or len(counts) < MAX_KINDS else OTHERS


class BadRows:
    """Counts good and bad rows of a source; keeps the messages of the first bad ones."""

    def __init__(self, source: Path | str) -> None:
        self._source = source
        self._listed: list[Bilingual] = []
        self._first = FirstOfEachKind()
        self._missing = 0
        self.good = 0

    def add(self, location: str, problem: BadRowError) -> None:
        """Count a bad row."""
        self._missing += isinstance(problem, MissingColumnError)
        if self._first.shows(problem):
            self._listed.append(problem.at(location))

    @property
    def enough(self) -> bool:
        """Whether no more rows need to be read: the first ENOUGH_LACKING ones all lack the columns of question and answer."""
        return self._missing == ENOUGH_LACKING and not self.good and self._first.total == self._missing

    def raise_if_any(self, remedy: Bilingual) -> None:
        """Raise one UserError for all bad rows, a short one if all lack the same columns.

        `remedy` says what to do; "{}" in its English stands for the row or the rows.
        """
        bad = self._first.total
        if not bad:
            return
        one = self._listed[0]
        error = MissingColumnsError if bad == self._missing and not self.good else UserError
        if bad == 1:
            raise error(Bilingual(f"{one.english} {remedy.english.replace('{}', 'this row')}", f"{one.chinese}{remedy.chinese}"))
        if error is MissingColumnsError:
            command = f"`imprint data check {shlex.quote(str(self._source))}`"
            so_are, chinese = (f"the first {bad:,}", f"前 {bad:,} 行") if self.enough else (f"all {bad:,}", f"全部 {bad:,} 行")
            raise error(
                Bilingual(
                    f"{one.english} So are {so_are} rows. {remedy.english.replace('{}', 'their names')} {command} tells more.",
                    f"{one.chinese}{chinese}都是如此。{remedy.chinese}详见 {command}。",
                )
            )
        english = f"{self._source}: {bad:,} of {bad + self.good:,} rows are bad. {remedy.english.replace('{}', 'them')}"
        head = Bilingual(english, f"{bad:,} 行有问题。{remedy.chinese}")
        rest = self._first.rest_by_kind()
        raise UserError(join_lines([head, *self._listed, *([rest] if rest else [])]))


def is_missing(value: object) -> bool:
    """Whether a value stands for none: null, or NaN, which pandas writes for an empty cell."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def too_deep(value: object) -> bool:
    """Whether lists and objects are nested more than MAX_NESTED levels deep."""
    level: list[object] = [value]
    for _depth in range(MAX_NESTED):
        level = [
            child
            for outer in level
            for child in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def label_as_text(value: object) -> object:
    """An integer as its digits, so that an answer may be a number of a class; any other value unchanged."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < MAX_LABEL else value


def non_empty_text(value: object, column: str | Bilingual) -> str:
    """The value of a column. Raises BadRowError if it is not a text or is blank."""
    if not isinstance(value, str):
        raise must_be(column, "a text", "文本", value)
    if not value.strip():
        found, subject = describe_value(value), named(column)
        error = BadRowError(
            Bilingual(f"{subject.english} must not be empty, got {found.english}.", f"{subject.chinese}不能为空，实际为{found.chinese}。")
        )
        error.is_empty = True
        raise error
    try:
        value.encode()  # first, because the name is quoted only where it is needed
    except UnicodeEncodeError:
        return valid_unicode(value, column)
    return value


def must_be(column: str | Bilingual, english: str, chinese: str, value: object) -> BadRowError:
    """The error of a value that is something else: what it must be, and what was found."""
    subject, found = named(column), describe_value(value)
    return BadRowError(
        Bilingual(
            f"{subject.english} must be {english}, got {found.english}.".lstrip(),
            f"{subject.chinese}须为{chinese}，实际为{found.chinese}。",
        )
    )


def not_an_object(value: object) -> BadRowError:
    """The error of a row that is no object."""
    return must_be(Bilingual("", ""), "a JSON object with columns", "带列名的 JSON 对象", value)


def named(column: str | Bilingual) -> Bilingual:
    """The name of a column as the subject of a sentence; other subjects unchanged."""
    return column if isinstance(column, Bilingual) else Bilingual(quote(column), f"{quote(column)} ")


def turn_of(number: int, column: str) -> Bilingual:
    """A turn of a conversation as the subject of a sentence."""
    return Bilingual(f"turn {number} of {quote(column)}", f"{quote(column)} 第 {number} 轮")


def has_both(subject: Bilingual, keys: tuple[str, str], which: Bilingual | None = None) -> BadRowError:
    """The error of a turn with two keys of one meaning; `which`: what else is to be said of them."""
    more = which or Bilingual("", "")
    return BadRowError(
        Bilingual(
            f"{subject.english} has both {quote(keys[0])} and {quote(keys[1])}{more.english}. Leave one out.",
            f"{subject.chinese}同时有 {quote(keys[0])} 和 {quote(keys[1])}{more.chinese}：请去掉一个。",
        )
    )


def part_of(subject: Bilingual, key: str) -> Bilingual:
    """A key of a turn as the subject of a sentence."""
    return Bilingual(f"{quote(key)} of {subject.english}", f"{subject.chinese}的 {quote(key)} ")


def key_in(subject: Bilingual, key: str) -> Bilingual:
    """The same, with the turn in front."""
    return Bilingual(f"{subject.english}: {quote(key)}", f"{subject.chinese}的 {quote(key)} ")


def valid_unicode(text: str, column: str | Bilingual) -> str:
    """The text. Raises BadRowError, with the column as its subject, for a lone surrogate, which JSON escapes can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        surrogate, subject = f"\\u{ord(text[error.start]):04x}", named(column)
        raise BadRowError(
            Bilingual(
                f"{subject.english} holds half a character, {surrogate}, without its other half. Write the whole character.",
                f"{subject.chinese}含有半个字符 {surrogate}，缺少另一半：请写完整的字符。",
            )
        ) from error
    return text


def describe_value(value: object) -> Bilingual:
    """The type of a value and its beginning: `a string ("...")`."""
    match value:
        case None:
            return Bilingual("null", "空值 null")
        case bool():
            return _described("a boolean", "布尔值", json.dumps(value))
        case float() if math.isnan(value):
            return Bilingual("NaN, a missing value", "缺失值 NaN")
        case int() | float():
            return _described("a number", "数字", clip(str(value)))
        case str():
            return _described("a string", "文本", quote(value))
        case list() | tuple():
            return _described("a list", "列表", clip(_as_json(value)))
        case dict():
            return _described("an object", "对象", clip(_as_json(value)))
    kind = type(value).__name__
    return _described(f"a {kind}", f" {kind} ", clip(str(value)))


def _described(english: str, chinese: str, text: str) -> Bilingual:
    return Bilingual(f"{english} ({text})", f"{chinese}（{text}）")


def quote(text: str) -> str:
    """The beginning of a text in quotes."""
    return f'"{clip(text)}"'


def first_line(error: Exception) -> str:
    """The first line of a library's message."""
    text = str(error).strip()
    return clip(text.splitlines()[0] if text else type(error).__name__, 120).rstrip(".")


def quote_names(names: Iterable[str]) -> Bilingual:
    """The first names in quotes, and the number of the others; "none" without any."""
    listed = list(names)
    shown, rest = ", ".join(map(quote, listed[:MAX_NAMES])), len(listed) - MAX_NAMES
    if rest > 0:
        return Bilingual(f"{shown} and {rest} more", f"{shown} 等 {len(listed)} 个")
    return Bilingual(shown or "none", shown or "无")


def clip(text: str, size: int = 40) -> str:
    """The beginning of a text on one line, non-printable characters escaped."""
    return printable(text if len(text) <= size else text[:size] + "...")


def _as_json(value: object) -> str:
    """The value as JSON; dates and bytes, which tables may hold in lists, as strings."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (RecursionError, TypeError, ValueError):  # too deep, or keys that JSON does not have
        return "..."
