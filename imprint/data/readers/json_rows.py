"""Rows of JSON, one a line or all of them in one array, decoded one at a time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from imprint.data.readers.bad_rows import BadRowError, describe_value, quote
from imprint.data.readers.encodings import LONGEST_ROW, Encoding, ReportBytes, read_chunks, read_lines, undecodable_error

BLANKS: Final = " \t\r\n\ufeff"
LONGEST_LITERAL: Final = 16
"""Characters at the end of a piece that may be the beginning of a word, a number or an escape, and no error."""


def line_rows(path: Path, encoding: Encoding, report_bytes: ReportBytes | None = None) -> Iterator[tuple[int, object]]:
    """The (line, object) of each line that is not blank; what is no object is a BadRowError."""
    decoder = _Decoder()
    for number, line in read_lines(path, encoding, report_bytes):
        if isinstance(line, BadRowError):
            yield number, line
        elif text := line.strip(BLANKS):  # marks of byte order stand where files were joined
            row = undecodable_error(line, encoding) or _line_row(decoder, text, line)
            if isinstance(row, BadRowError):
                row.text = line
            yield number, row


def _line_row(decoder: "_Decoder", text: str, line: str) -> object:
    try:
        value, end = decoder.decode(text, 0)
        if end < len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except json.JSONDecodeError as error:
        column = error.colno + len(line) - len(line.lstrip(BLANKS))
        return BadRowError(f"is no JSON: {_explain(error)} at column {column}, in {quote(line)}. Each line must be one JSON object.")
    except (ValueError, RecursionError):
        return BadRowError(f"is no JSON that can be read, too deep or with too long a number: {quote(line)}.")
    return decoder.row(value)


def array_rows(path: Path, encoding: Encoding, report_bytes: ReportBytes | None = None) -> Iterator[tuple[int, object]]:
    """The (line where it starts, object) of each element of one array; what is behind an element that is no JSON cannot be read."""
    return _JsonScanner("array", path, encoding, report_bytes).elements()


def object_rows(path: Path, encoding: Encoding, report_bytes: ReportBytes | None = None) -> Iterator[tuple[int, object]]:
    """The (line where it starts, object) of objects that stand one after another, each over as many lines as it likes."""
    return _JsonScanner("object", path, encoding, report_bytes).objects()


def _explain(error: json.JSONDecodeError) -> str:
    """What is wrong, in words that help those who write JSON by hand where Python's do not."""
    character, before = error.doc[error.pos : error.pos + 1], error.doc[max(error.pos - LONGEST_LITERAL, 0) : error.pos].rstrip()
    if error.msg.startswith("Illegal trailing comma") or (character in ("}", "]") and before.endswith(",")):  # Python >= 3.13, and before
        return "a comma too many"
    return "a comment, which JSON does not know," if character in ("/", "#") else error.msg.removesuffix(" at")


class _Decoder:
    """JSON that notices a key which an object has twice."""

    def __init__(self) -> None:
        self._repeated: list[str] = []
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def decode(self, text: str, start: int) -> tuple[object, int]:
        """The value at `start`, and where it ends."""
        self._repeated.clear()
        value: tuple[object, int] = self._decoder.raw_decode(text, start)
        return value

    def row(self, value: object) -> object:
        """The value that was decoded last, if it is an object without repetitions, else what is wrong with it."""
        if not isinstance(value, dict):
            return BadRowError(f"must be a JSON object with columns, got {describe_value(value)}.")
        if self._repeated:
            return BadRowError(f"has {quote(self._repeated[0])} twice in one object, so one of the two would be lost. Leave one out.")
        return value

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(pairs)
        if len(made) < len(pairs):
            keys = [key for key, _value in pairs]
            self._repeated.append(next(key for key in keys if keys.count(key) > 1))
        return made


class _JsonScanner:
    """A window over a text of JSON: more is fetched while an element is not complete, and what was read is dropped then."""

    def __init__(self, what: str, path: Path, encoding: Encoding, report_bytes: ReportBytes | None) -> None:
        self._chunks = read_chunks(path, encoding, report_bytes)
        self._noun = what
        self._encoding = encoding
        self._decoder = _Decoder()
        self._text = ""
        self._complete = False
        self._broken = False
        self._position = 0
        self._first_line, self._first_column = 1, 1  # where the text begins in the file
        self._line, self._counted = 1, 0  # the line of the place up to which newlines are counted

    def elements(self) -> Iterator[tuple[int, object]]:
        """Each element of an array with its line, and what is wrong behind the last one that could be read."""
        self._skip_blanks()
        self._position += 1  # the bracket
        first = True
        while self._skip_blanks() != "]":
            if not first:
                if self._peek() != ",":
                    found = f"got {self._rest()}" if self._peek() else "the file ends"
                    yield self._current_line(), BadRowError(f"behind an element of the array there must be a comma or `]`, but {found}.")
                    return
                self._position += 1
                if self._skip_blanks() == "]":
                    yield (
                        self._current_line(),
                        BadRowError("there is a comma before the `]` of the array and nothing behind it. Delete it."),
                    )
                    break
            first = False
            yield self._row()
            if self._broken:
                return
        self._position += 1
        if self._skip_blanks():
            yield self._current_line(), BadRowError(f"behind the `]` of the array nothing may follow, got {self._rest()}.")

    def objects(self) -> Iterator[tuple[int, object]]:
        """Each object with its line, and what is wrong behind the last one that could be read."""
        while self._skip_blanks() and not self._broken:
            yield self._row()

    def _row(self) -> tuple[int, object]:
        """What starts here with its line; behind what is no JSON nothing can be read."""
        line = self._current_line()
        try:
            return line, self._next_value()
        except json.JSONDecodeError as error:
            self._broken = True
            cut_off = self._complete and (error.msg.startswith("Unterminated") or error.pos >= len(self._text.rstrip()))
            if cut_off and self._peek():
                return line, BadRowError("begins here and is not complete when the file ends. Was the file cut off?")
            return self._syntax_error(error)
        except (ValueError, RecursionError):
            self._broken = True
            return line, BadRowError("is no JSON that can be read, too deep or with too long a number.")

    def _next_value(self) -> object:
        """The element that starts here; more text is fetched until it is complete."""
        while True:
            try:
                value, end = self._decoder.decode(self._text, self._position)
            except json.JSONDecodeError as error:
                open_end = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - LONGEST_LITERAL
                size = len(self._text) - self._position
                if self._complete or not open_end or size > LONGEST_ROW:
                    raise
                self._complete = not self._read_more(size)  # then once more: the error counts from where the text begins, which moves
            else:
                if end < len(self._text) or not self._read_more(1):
                    text = self._text[self._position : end]
                    self._position = end
                    return undecodable_error(text, self._encoding) or self._decoder.row(value)

    def _syntax_error(self, error: json.JSONDecodeError) -> tuple[int, BadRowError]:
        """A syntax error in the lines and columns of the file."""
        column = error.colno + (self._first_column - 1 if error.lineno == 1 else 0)
        return self._first_line + error.lineno - 1, BadRowError(
            f"the {self._noun} is no JSON from here on: {_explain(error)} at column {column}."
        )

    def _peek(self) -> str:
        return self._text[self._position : self._position + 1]

    def _rest(self) -> str:
        return quote(self._text[self._position : self._position + 40])

    def _skip_blanks(self) -> str:
        """Move to what is not blank and return its first character, at the end of the file nothing."""
        while True:
            while (character := self._peek()) and character in BLANKS:
                self._position += 1
            if character or not self._read_more(1):
                return character

    def _current_line(self) -> int:
        self._line += self._text.count("\n", self._counted, self._position)
        self._counted = self._position
        return self._line

    def _read_more(self, least: int) -> bool:
        """Drop what was read and add at least so many characters to the text; False where the file ends."""
        self._first_line = self._current_line()
        newline = self._text.rfind("\n", 0, self._position)
        self._first_column = self._position - newline if newline >= 0 else self._first_column + self._position
        pieces = [self._text[self._position :]]
        while least > 0 and (piece := next(self._chunks, None)) is not None:
            pieces.append(piece)
            least -= len(piece)
        self._text, self._position, self._counted = "".join(pieces), 0, 0
        return len(pieces) > 1
