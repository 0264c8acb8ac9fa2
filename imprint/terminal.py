"""Text for a terminal: alignment of Chinese text, bars and colours."""

import os
import re
import shutil
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TextIO

BLOCKS: Final = " ▏▎▍▌▋▊▉█"
DEFAULT_COLUMNS: Final = 100
"""Columns of a line if the output is no terminal."""
ESCAPE: Final = re.compile(r"\x1b\[[0-9;]*m")
ANSI_CODES: Final[Mapping[str, str]] = MappingProxyType(
    {"bold": "1", "dim": "2", "underline": "4", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}
)


@dataclass(frozen=True)
class Style:
    """Adds colours, if any: words and marks carry the meaning without them."""

    coloured: bool
    """Whether colours are added."""

    def __call__(self, text: str, *names: str) -> str:
        """The text with these styles, names of `ANSI_CODES`."""
        if not self.coloured or not text or not names:
            return text
        return f"\x1b[{';'.join(ANSI_CODES[name] for name in names)}m{text}\x1b[0m"


def style_for(stream: TextIO, environment: Mapping[str, str] | None = None) -> Style:
    """Colours on a terminal, unless NO_COLOR (https://no-color.org) is set or the terminal has none."""
    variables = os.environ if environment is None else environment
    return Style(stream.isatty() and not variables.get("NO_COLOR") and variables.get("TERM") != "dumb")


def terminal_columns(stream: TextIO) -> int:
    """Maximum columns of a line: the width of the terminal."""
    return shutil.get_terminal_size((DEFAULT_COLUMNS, 0)).columns if stream.isatty() else DEFAULT_COLUMNS


def width(text: str) -> int:
    """Columns of a text: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(ESCAPE.sub("", text)) if "\x1b" in text else len(text)
    return sum(_columns(character) for character in ESCAPE.sub("", text))


def pad_right(text: str, columns: int) -> str:
    """The text, left-aligned in so many columns."""
    return text + " " * (columns - width(text))


def pad_left(text: str, columns: int) -> str:
    """The text, right-aligned in so many columns."""
    return " " * (columns - width(text)) + text


def printable(text: str) -> str:
    """The text on one line: newlines and other non-printable characters escaped."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def clip_columns(text: str, columns: int) -> str:
    """The beginning of a text in at most `columns` columns, non-printable characters escaped."""
    shown = printable(text[: columns + 1])
    if width(shown) <= columns and len(text) <= columns:
        return shown
    kept, available = "", columns - 1
    for character in shown:
        available -= _columns(character)
        if available < 0:
            break
        kept += character
    return kept + "…"


def table_lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of cells as lines with aligned columns; non-printable characters are escaped."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(map(pad_right, row, widths)).rstrip()


def bar(share: float, columns: int) -> str:
    """A bar of `share` (0 to 1) of so many columns, in eighths of a column; a share above 0 has at least one eighth."""
    eighths = max(round(share * columns * 8), share > 0)
    full, rest = divmod(eighths, 8)
    return "█" * full + BLOCKS[rest].strip()


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
