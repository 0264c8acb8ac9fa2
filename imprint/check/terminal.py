"""Text for a terminal: columns that line up with Chinese in them, bars, and colours where they can be seen."""

import os
import re
import shutil
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TextIO

from imprint.data.readers.bad_rows import printable

BLOCKS: Final = " ▏▎▍▌▋▊▉█"
DEFAULT_COLUMNS: Final = 100
"""Columns of a line where the output is no terminal."""
ESCAPE: Final = re.compile(r"\x1b\[[0-9;]*m")
ANSI_CODES: Final[Mapping[str, str]] = MappingProxyType(
    {"bold": "1", "dim": "2", "underline": "4", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}
)


@dataclass(frozen=True)
class Style:
    """Writes in colour, or not at all in colour: words and marks carry the meaning, colour only helps the eye."""

    coloured: bool
    """Whether the reader sees colours."""

    def __call__(self, text: str, *names: str) -> str:
        """The text in these colours, names of `ANSI_CODES`."""
        if not self.coloured or not text or not names:
            return text
        return f"\x1b[{';'.join(ANSI_CODES[name] for name in names)}m{text}\x1b[0m"


def style_for(stream: TextIO, environment: Mapping[str, str] | None = None) -> Style:
    """Colours on a terminal, unless NO_COLOR (https://no-color.org) is set or the terminal has none."""
    known = os.environ if environment is None else environment
    return Style(stream.isatty() and not known.get("NO_COLOR") and known.get("TERM") != "dumb")


def terminal_columns(stream: TextIO) -> int:
    """How many columns a line may have: as many as the terminal has."""
    return shutil.get_terminal_size((DEFAULT_COLUMNS, 0)).columns if stream.isatty() else DEFAULT_COLUMNS


def width(text: str) -> int:
    """How many columns a text takes: two for Chinese, none for what joins the character before it."""
    if text.isascii():
        return len(ESCAPE.sub("", text)) if "\x1b" in text else len(text)
    return sum(_columns(character) for character in ESCAPE.sub("", text))


def pad_right(text: str, columns: int) -> str:
    """The text at the left of so many columns."""
    return text + " " * (columns - width(text))


def pad_left(text: str, columns: int) -> str:
    """The text at the right of so many columns."""
    return " " * (columns - width(text)) + text


def clip_columns(text: str, columns: int) -> str:
    """The beginning of a text on one line of so many columns, what cannot be printed escaped."""
    shown = printable(text[: columns + 1])
    if width(shown) <= columns and len(text) <= columns:
        return shown
    kept, room = "", columns - 1
    for character in shown:
        room -= _columns(character)
        if room < 0:
            break
        kept += character
    return kept + "…"


def bar(share: float, columns: int) -> str:
    """A bar of `share` (0 to 1) of so many columns, to an eighth of a column; what is not nothing is seen."""
    eighths = max(round(share * columns * 8), share > 0)
    full, rest = divmod(eighths, 8)
    return "█" * full + BLOCKS[rest].strip()


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
