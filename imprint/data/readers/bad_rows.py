"""Errors of rows, and descriptions of bad values."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from imprint.messages import Bilingual, UserError
from imprint.terminal import printable

MAX_LISTED: Final = 10
"""Maximum number of bad rows that an error lists; the rest is counted."""

MAX_NESTED: Final = 100
"""Maximum levels of lists and objects in a row."""
MAX_NAMES: Final = 20
"""Maximum number of columns that an error names; the rest is counted."""
MAX_LABEL: Final = 10**18
"""Bound of the absolute value of a number that is a label."""


class BadRowError(ValueError):
    """What is wrong with one row, as the end of a sentence that starts with the row's location."""

    text: str = ""
    """The line of the file, if it could not be parsed."""


class BadRows:
    """Counts good and bad rows of a source; keeps the messages of the first bad ones."""

    def __init__(self, source: Path | str) -> None:
        self._source = source
        self._listed: list[str] = []
        self._bad = 0
        self.good = 0

    def add(self, location: str, problem: BadRowError) -> None:
        """Count a bad row."""
        self._bad += 1
        if len(self._listed) < MAX_LISTED:
            self._listed.append(f"{location}: {problem}")

    def raise_if_any(self, remedy: Bilingual) -> None:
        """Raise one UserError for all bad rows. `remedy` says what to do; "{}" in its English stands for the row or the rows."""
        if not self._bad:
            return
        if self._bad == 1:
            raise UserError(Bilingual(f"{self._listed[0]} {remedy.english.replace('{}', 'this row')}", remedy.chinese))
        more = f"\nand {self._bad - MAX_LISTED} more." if self._bad > MAX_LISTED else ""
        head = f"{self._source}: {self._bad} of {self._bad + self.good} rows are bad. {remedy.english.replace('{}', 'them')}"
        raise UserError(Bilingual("\n".join([head, *self._listed]) + more, f"{self._bad} 行有问题。{remedy.chinese}"))


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


def non_empty_text(value: object, column: str) -> str:
    """The value of a column. Raises BadRowError if it is not a text or is blank."""
    if not isinstance(value, str):
        raise BadRowError(f'"{column}" must be a text, got {describe_value(value)}.')
    if not value.strip():
        raise BadRowError(f'"{column}" must not be empty, got {describe_value(value)}.')
    try:
        value.encode()  # first, because the name is quoted only where it is needed
    except UnicodeEncodeError:
        return valid_unicode(value, quote(column))
    return value


def valid_unicode(text: str, subject: str) -> str:
    """The text. Raises BadRowError, with `subject` as its subject, for a lone surrogate, which JSON escapes can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        surrogate = f"\\u{ord(text[error.start]):04x}"
        raise BadRowError(f"{subject} holds half a character, {surrogate}, without its other half. Write the whole character.") from error
    return text


def describe_value(value: object) -> str:
    """The type of a value and its beginning: `a string ("...")`."""
    match value:
        case None:
            return "null"
        case bool():
            return f"a boolean ({json.dumps(value)})"
        case float() if math.isnan(value):
            return "NaN, a missing value"
        case int() | float():
            return f"a number ({clip(str(value))})"
        case str():
            return f"a string ({quote(value)})"
        case list() | tuple():
            return f"a list ({clip(_as_json(value))})"
        case dict():
            return f"an object ({clip(_as_json(value))})"
    return f"a {type(value).__name__} ({clip(str(value))})"


def quote(text: str) -> str:
    """The beginning of a text in quotes."""
    return f'"{clip(text)}"'


def first_line(error: Exception) -> str:
    """The first line of a library's message."""
    text = str(error).strip()
    return clip(text.splitlines()[0] if text else type(error).__name__, 120).rstrip(".")


def quote_names(names: Iterable[str]) -> str:
    """The first names in quotes, and the number of the others; "none" without any."""
    listed = list(names)
    more = f" and {len(listed) - MAX_NAMES} more" if len(listed) > MAX_NAMES else ""
    return (", ".join(map(quote, listed[:MAX_NAMES])) or "none") + more


def clip(text: str, size: int = 40) -> str:
    """The beginning of a text on one line, non-printable characters escaped."""
    return printable(text if len(text) <= size else text[:size] + "...")


def _as_json(value: object) -> str:
    """The value as JSON; dates and bytes, which tables may hold in lists, as strings."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (RecursionError, TypeError, ValueError):  # too deep, or keys that JSON does not have
        return "..."
