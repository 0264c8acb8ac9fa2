"""What is wrong with a row, and the words in which its values are told."""

import json
from pathlib import Path
from typing import Final

from imprint.errors import UserError

MAX_LISTED: Final = 10
"""How many bad rows an error lists before it only counts."""


class BadRowError(ValueError):
    """What is wrong with one row, as the end of a sentence that starts with its place."""

    text: str = ""
    """The line as it stands in the file, where it is one that cannot be taken apart."""


class BadRows:
    """The bad rows of a source, of which only the first are kept, and how many good ones there are."""

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

    def raise_if_any(self, remedy: str) -> None:
        """Raise one UserError for all of them; `remedy` says what to do, with "{}" for the row or the rows."""
        if not self._bad:
            return
        if self._bad == 1:
            raise UserError(f"{self._listed[0]} {remedy.replace('{}', 'this row')}")
        more = f"\nand {self._bad - MAX_LISTED} more." if self._bad > MAX_LISTED else ""
        head = f"{self._source}: {self._bad} of {self._bad + self.good} rows are bad. {remedy.replace('{}', 'them')}"
        raise UserError("\n".join([head, *self._listed]) + more)


def non_empty_text(value: object, column: str) -> str:
    """The value of a column, which must be a text that is not blank; raises BadRowError for everything else."""
    if not isinstance(value, str):
        raise BadRowError(f'"{column}" must be a text, got {describe_value(value)}.')
    if not value.strip():
        raise BadRowError(f'"{column}" must not be empty, got {describe_value(value)}.')
    return valid_unicode(value, quote(column))


def valid_unicode(text: str, what: str) -> str:
    """The text; raises BadRowError where it holds half a character, as escapes of JSON can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise BadRowError(f"{what} holds half a character, {half}, without its other half. Write the whole character.") from error
    return text


def describe_value(value: object) -> str:
    """The kind of a value and its beginning: `a string ("...")`."""
    match value:
        case None:
            return "null"
        case bool():
            return f"a truth value ({json.dumps(value)})"
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


def clip(text: str, size: int = 40) -> str:
    """The beginning of a text on one line, whatever cannot be printed escaped."""
    return printable(text if len(text) <= size else text[:size] + "...")


def printable(text: str) -> str:
    """The text on one line: newlines and whatever else cannot be printed as escapes."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def _as_json(value: object) -> str:
    """JSON as far as a value is; a table may hold dates and bytes within lists."""
    return json.dumps(value, ensure_ascii=False, default=str)
