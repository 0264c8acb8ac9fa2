"""Text for a terminal: the one way to print, alignment of Chinese text, bars and colours.

`say` prints everything that Imprint prints. Text comes from untrusted files, models and names, and a terminal obeys what is in it; so
`say` replaces every control character, last of all. A colour is not an escape sequence until then: `Style` marks it with characters that
Unicode reserves for a program's own use, U+FDD0 to U+FDEF, and `say` puts the sequence there. Each process draws how its marks begin,
so that no untrusted text has them.
"""

import io
import json
import logging
import os
import re
import secrets
import shutil
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, TextIO

BLOCKS: Final = " ▏▎▍▌▋▊▉█"
DEFAULT_COLUMNS: Final = 100
"""Columns of a line if the output is no terminal."""
CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 without newline and tab, DEL, C1, lone surrogates, and the overrides and isolates that show a line in another order."""
REPLACEMENT: Final = "\ufffd"
ANSI_CODES: Final[Mapping[str, str]] = MappingProxyType(
    {"bold": "1", "dim": "2", "underline": "4", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}
)
MARK_BEGIN: Final = "".join(chr(0xFDD0 + secrets.randbelow(16)) for _ in range(16))
"""How each mark of this process begins: 64 random bits."""
STYLE_MARKS: Final[Mapping[str, str]] = MappingProxyType(
    {name: MARK_BEGIN + chr(0xFDE0 + number) for number, name in enumerate(ANSI_CODES)}
)
"""Style -> the mark that begins it in a text."""
STYLE_END: Final = f"{MARK_BEGIN}\ufdef"
MARKS: Final = re.compile(f"(?:{MARK_BEGIN}[\ufde0-\ufdef])+")
NO_CHARACTERS: Final = re.compile("[\ufdd0-\ufdef]")
UNSAFE_IN_JSON: Final = re.compile("[\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef]")


@dataclass(frozen=True)
class Style:
    """Marks colours, if any, which `say` shows: words and marks carry the meaning without them."""

    coloured: bool
    """Whether colours are added."""

    def __call__(self, text: str, *names: str) -> str:
        """The text with these styles, names of `ANSI_CODES`."""
        if not self.coloured or not text or not names:
            return text
        return "".join(STYLE_MARKS[name] for name in names) + text + STYLE_END


def say(*lines: str, stream: TextIO | None = None, end: str = "\n") -> None:
    """Print lines that no control character in them can make a terminal obey, and flush; to standard output if no stream is given."""
    out = sys.stdout if stream is None else stream
    for line in lines:
        out.write(_coloured(harmless(line), out) + end)
    out.flush()


@cache
def say_once(message: str) -> None:
    """Print a message on the error output, once in a process: the output itself may be answers."""
    say(message, stream=sys.stderr)


def say_json(value: object) -> None:
    """Print a value as indented JSON, in which control characters are escaped, not replaced."""
    say(UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False, indent=2)))


def prepare_output() -> None:
    r"""Discard output to a closed stream; print warnings, logs and tracebacks, which may quote a file, harmlessly.

    Characters that the encoding lacks, as under LC_ALL=POSIX, are printed as \u4f60.
    """
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = sys.stdout
    logging.setLogRecordFactory(_HarmlessRecord)
    warnings.showwarning = _show_warning
    sys.excepthook = _show_exception
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


class _HarmlessRecord(logging.LogRecord):
    """A log message of a library, which may quote a file."""

    def getMessage(self) -> str:  # noqa: N802
        """The message, harmless to a terminal."""
        return harmless(super().getMessage())


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: str | None = None
) -> None:
    say(warnings.formatwarning(message, category, filename, lineno, line), stream=file or sys.stderr, end="")


def _show_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    say("".join(traceback.format_exception(kind, error, trace)), stream=sys.stderr, end="")


def harmless(text: str) -> str:
    """The text with a replacement character for each control character but newline and tab; CR LF is a newline."""
    if text.isprintable():
        return text
    return CONTROLS.sub(REPLACEMENT, text.replace("\r\n", "\n"))


def _coloured(text: str, stream: TextIO) -> str:
    """The text with escape sequences where `Style` has marked colours, or without both if the stream shows none."""
    if not NO_CHARACTERS.search(text):
        return text
    codes = {mark[-1]: ANSI_CODES[name] for name, mark in STYLE_MARKS.items()} | {STYLE_END[-1]: "0"}

    def sequence(found: re.Match[str]) -> str:
        return f"\x1b[{';'.join(codes.get(mark, '0') for mark in found[0].replace(MARK_BEGIN, ''))}m"

    return NO_CHARACTERS.sub("", MARKS.sub(sequence if style_for(stream).coloured else "", text))


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
        return len(text)
    return sum(_columns(character) for character in MARKS.sub("", text))


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
