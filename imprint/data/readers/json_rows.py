"""Rows of JSON lines, of one array or of concatenated objects, decoded one at a time."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from imprint.data.readers.bad_rows import MAX_NESTED, BadRowError, not_an_object, quote, too_deep
from imprint.data.readers.encodings import MAX_ROW_CHARACTERS, Encoding, ReportBytes, read_chunks, read_lines, undecodable_error
from imprint.data.turns import is_conversation
from imprint.messages import Bilingual

CONVERSATION: Final = "messages"
"""The column of a bare list of turns."""
BLANKS: Final = " \t\r\n\ufeff"
Line = int | str
"""The line of a row; with its number if the row before begins on the same line."""
SYNTAX_ERRORS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Expecting value": "缺少值",
        "Expecting ','": "缺少逗号",
        "Expecting ':'": "缺少冒号",
        "Expecting property name": "须是双引号中的键",
        "Extra data": "多出了内容",
        "Unterminated string": "的字符串没有闭合",
        "Invalid control character": "的字符串中有控制字符",
        "Invalid": "的转义有误",
    }
)
"""Start of a message of Python's decoder -> the same in Chinese, after the column."""
MAX_LITERAL: Final = 16
"""Characters at the end of a chunk where a literal, a number or an escape may be incomplete, which is no syntax error."""


def line_rows(path: Path, encoding: Encoding, report_bytes: ReportBytes | None = None) -> Iterator[tuple[Line, object]]:
    """The (line number, object or BadRowError) of each line that is not blank."""
    decoder = _Decoder()
    for number, line in read_lines(path, encoding, report_bytes):
        if isinstance(line, BadRowError):
            yield number, line
        elif text := line.strip(BLANKS):  # concatenated files have byte order marks inside
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
        reason = _explain(error)
        return BadRowError(
            Bilingual(
                f"is not JSON: {reason.english} at column {column}, in {quote(line)}. Each line must be one JSON object.",
                f"不是 JSON：第 {column} 列{reason.chinese}，内容为 {quote(line)}。每行须是一个 JSON 对象。",
            )
        )
    except (ValueError, RecursionError):
        return BadRowError(
            Bilingual(
                f"is not JSON that can be read, too deep or with too long a number: {quote(line)}.",
                f"是无法读取的 JSON，嵌套太深或数字太长，内容为 {quote(line)}。",
            )
        )
    return decoder.row(value)


def array_rows(path: Path, encoding: Encoding, report_bytes: ReportBytes | None = None) -> Iterator[tuple[Line, object]]:
    """The (first line, object or BadRowError) of each element of one array; ends at the first syntax error."""
    return _JsonScanner(Bilingual("array", "数组"), path, encoding, report_bytes).elements()


def wrapped_rows(path: Path, encoding: Encoding, key: str, report_bytes: ReportBytes | None = None) -> Iterator[tuple[Line, object]]:
    """The (first line, object or BadRowError) of each element of the array that is `key` of one object."""
    return _JsonScanner(Bilingual("file", "文件"), path, encoding, report_bytes).wrapped(key)


def object_rows(path: Path, encoding: Encoding, report_bytes: ReportBytes | None = None) -> Iterator[tuple[Line, object]]:
    """The (first line, object or BadRowError) of concatenated objects of any number of lines."""
    return _JsonScanner(Bilingual("object", "对象"), path, encoding, report_bytes).objects()


def _columns_of(value: object) -> set[str]:
    """The columns of the first object of a list; none for any other value."""
    return set(value[0]) if isinstance(value, list) and value and isinstance(value[0], dict) else set()


def _explain(error: json.JSONDecodeError) -> Bilingual:
    """A description of a syntax error; of common ones in plainer words than Python's."""
    character, before = error.doc[error.pos : error.pos + 1], error.doc[max(error.pos - MAX_LITERAL, 0) : error.pos].rstrip()
    if error.msg.startswith("Illegal trailing comma") or (
        character in ("}", "]") and before.endswith(",")
    ):  # the message of Python >= 3.13, and earlier ones
        return Bilingual("a comma too many", "多了逗号")
    if character in ("/", "#"):
        return Bilingual("a comment, which JSON does not know,", "是注释，JSON 不支持")
    message = error.msg.removesuffix(" at")
    return Bilingual(message, next((chinese for english, chinese in SYNTAX_ERRORS.items() if message.startswith(english)), "语法有误"))


class _Decoder:
    """A JSON decoder that detects repeated keys."""

    def __init__(self) -> None:
        self._repeated: list[str] = []
        self._brackets = 0
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def decode(self, text: str, start: int) -> tuple[object, int]:
        """The value at `start`, and its end index."""
        self._repeated.clear()
        value: tuple[object, int] = self._decoder.raw_decode(text, start)
        self._brackets = text.count("[", start, value[1]) + text.count("{", start, value[1])
        return value

    def row(self, value: object) -> object:
        """The last decoded value if it is an object without repeated keys, a bare list of turns as one; else a BadRowError."""
        if is_conversation(value):
            value = {CONVERSATION: value}
        if not isinstance(value, dict):
            return not_an_object(value)
        if self._brackets > MAX_NESTED and too_deep(value):
            return BadRowError(
                Bilingual(
                    f"is nested more than {MAX_NESTED} levels deep, which no row is.", f"嵌套超过 {MAX_NESTED} 层，不可能是一行数据。"
                )
            )
        if self._repeated:
            name = quote(self._repeated[0])
            return BadRowError(
                Bilingual(
                    f"has {name} twice in one object, so one of the two would be lost. Leave one out.",
                    f"同一个对象中有两个 {name}，会丢失其一：请去掉一个。",
                )
            )
        return value

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        value = dict(pairs)
        if len(value) < len(pairs):
            counts = Counter(key for key, _value in pairs)
            self._repeated.append(next(key for key in counts if counts[key] > 1))
        return value


class _JsonScanner:
    """A window over a JSON file: reads on while an element is incomplete, and drops what was decoded."""

    def __init__(self, noun: Bilingual, path: Path, encoding: Encoding, report_bytes: ReportBytes | None) -> None:
        self._chunks = read_chunks(path, encoding, report_bytes)
        self._noun = noun
        self._encoding = encoding
        self._decoder = _Decoder()
        self._text = ""
        self._decoded = ""
        self._at_end = False
        self._broken = False
        self._position = 0
        self._first_line, self._first_column = 1, 1  # of the start of the text, in the file
        self._rows, self._row_line = 0, 0
        self._line, self._counted = 1, 0  # the line at index _counted, up to which newlines are counted

    def elements(self) -> Iterator[tuple[Line, object]]:
        """Each element of an array with its line, and the error that ends the reading, if any."""
        self._skip_whitespace()
        yield from self._elements()
        if not self._broken and self._skip_whitespace():
            yield self._unexpected("nothing may follow the `]` of the array,", "数组的 ] 之后不能再有内容")

    def wrapped(self, key: str) -> Iterator[tuple[Line, object]]:
        """Each element of the array that is `key` of one object, and the error that ends the reading, if any.

        Another array with such elements is an error too, because its rows are not read.
        """
        self._skip_whitespace()
        closing, columns = "", set[str]()
        others: list[tuple[int, str, set[str]]] = []
        while closing != "}":
            line, name = self._key()
            if not self._broken and name == key:
                for line_of_row, row in self._elements():
                    columns = columns or set(row if isinstance(row, dict) else ())
                    yield line_of_row, row
            elif not self._broken:
                line, value = self._row(self._next_json)
                others.append((line, str(name), _columns_of(value)))
                name = value
            if self._broken:
                if isinstance(name, BadRowError):
                    yield line, name
                return
            closing = self._skip_whitespace()
            if closing not in (",", "}") or not closing:
                yield self._unexpected("after a value there must be a comma or `}`, but", "值之后须是逗号或 }")
                return
        for line, other in [(line, other) for line, other, found in others if columns and columns <= found]:
            both = Bilingual(
                f"{quote(other)} holds rows too, but only those of {quote(key)} are read. Give each list a file.",
                f"{quote(other)} 中也有数据行，而只读取 {quote(key)} 中的：请把两个列表分成两个文件。",
            )
            yield line, BadRowError(both)
        self._position += 1
        if self._skip_whitespace():
            yield self._unexpected("nothing may follow the `}` around the rows,", "数据外层的 } 之后不能再有内容")

    def _key(self) -> tuple[int, object]:
        """The line and the next key of an object; the position moves to its value. A BadRowError ends the reading."""
        self._position += 1  # the brace or the comma
        self._skip_whitespace()
        line, name = self._row(self._next_json)
        if not self._broken and self._skip_whitespace() != ":":
            self._broken = True
            return self._unexpected("after a key there must be a colon, but", "键之后须是冒号")
        self._position += not self._broken
        self._skip_whitespace()
        return line, name

    def _elements(self) -> Iterator[tuple[Line, object]]:
        """The elements of the array at the current position, which moves after it."""
        self._position += 1  # the bracket
        first = True
        while self._skip_whitespace() != "]":
            if not first:
                if self._peek() != ",":
                    yield self._unexpected("after an element of the array there must be a comma or `]`, but", "数组元素之后须是逗号或 ]")
                    self._broken = True
                    return
                self._position += 1
                if self._skip_whitespace() == "]":
                    yield (
                        self._current_line(),
                        BadRowError(
                            Bilingual(
                                "there is a trailing comma before the `]` of the array. Delete it.", "数组的 ] 之前多了逗号：请删除。"
                            )
                        ),
                    )
                    break
            first = False
            yield self._with_line(*self._row(self._next_value))
            if self._broken:
                return
        self._position += 1

    def objects(self) -> Iterator[tuple[Line, object]]:
        """Each object with its line, and the error that ends the reading, if any."""
        while self._skip_whitespace() and not self._broken:
            yield self._with_line(*self._row(self._next_value))

    def _with_line(self, line: int, row: object) -> tuple[Line, object]:
        """The line of the next row, and the row."""
        self._rows += 1
        same, self._row_line = line == self._row_line, line
        return f"{line}, row {self._rows}" if same else line, row

    def _row(self, decode: Callable[[], object]) -> tuple[int, object]:
        """The line and the value at the current position; a syntax error ends the reading."""
        line = self._current_line()
        try:
            return line, decode()
        except json.JSONDecodeError as error:
            self._broken = True
            truncated = self._at_end and (error.msg.startswith("Unterminated") or error.pos >= len(self._text.rstrip()))
            if truncated and self._peek():
                cut_off = "begins here and is incomplete at the end of the file. Was the file truncated?"
                return line, BadRowError(Bilingual(cut_off, "从此处开始，到文件末尾仍不完整：文件是否被截断？"))
            return self._syntax_error(error)
        except (ValueError, RecursionError):
            self._broken = True
            unreadable = "is not JSON that can be read, too deep or with too long a number."
            return line, BadRowError(Bilingual(unreadable, "是无法读取的 JSON，嵌套太深或数字太长。"))

    def _next_value(self) -> object:
        """The row at the current position."""
        value = self._next_json()
        return undecodable_error(self._decoded, self._encoding) or self._decoder.row(value)

    def _next_json(self) -> object:
        """The value at the current position; reads on until it is complete."""
        while True:
            try:
                value, end = self._decoder.decode(self._text, self._position)
            except json.JSONDecodeError as error:
                incomplete = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - MAX_LITERAL
                size = len(self._text) - self._position
                if self._at_end or not incomplete or size > MAX_ROW_CHARACTERS:
                    raise
                # Then decode again: error positions count from the start of the text, which moves.
                self._at_end = not self._read_more(size)
            else:
                if end < len(self._text) or not self._read_more(1):
                    self._decoded = self._text[self._position : end]
                    self._position = end
                    return value

    def _syntax_error(self, error: json.JSONDecodeError) -> tuple[int, BadRowError]:
        """A syntax error with its line and column in the file."""
        column = error.colno + (self._first_column - 1 if error.lineno == 1 else 0)
        reason = _explain(error)
        return self._first_line + error.lineno - 1, BadRowError(
            Bilingual(
                f"the {self._noun.english} is not JSON from here on: {reason.english} at column {column}.",
                f"{self._noun.chinese}从此处起不是 JSON：第 {column} 列{reason.chinese}。",
            )
        )

    def _unexpected(self, english: str, chinese: str) -> tuple[int, BadRowError]:
        """The current line, and the error of what follows there."""
        rest = self._rest()
        got = Bilingual(f"got {rest}", f"实际为 {rest}") if self._peek() else Bilingual("the file ends", "而文件到此结束")
        return self._current_line(), BadRowError(Bilingual(f"{english} {got.english}.", f"{chinese}，{got.chinese}。"))

    def _peek(self) -> str:
        return self._text[self._position : self._position + 1]

    def _rest(self) -> str:
        return quote(self._text[self._position : self._position + 40])

    def _skip_whitespace(self) -> str:
        """Skip whitespace and return the next character; empty at the end of the file."""
        while True:
            while (character := self._peek()) and character in BLANKS:
                self._position += 1
            if character or not self._read_more(1):
                return character

    def _current_line(self) -> int:
        self._line += self._text.count("\n", self._counted, self._position)
        self._counted = self._position
        return self._line

    def _read_more(self, minimum: int) -> bool:
        """Drop the decoded text and read at least `minimum` characters; False at the end of the file."""
        self._first_line = self._current_line()
        newline = self._text.rfind("\n", 0, self._position)
        self._first_column = self._position - newline if newline >= 0 else self._first_column + self._position
        chunks = [self._text[self._position :]]
        while minimum > 0 and (chunk := next(self._chunks, None)) is not None:
            chunks.append(chunk)
            minimum -= len(chunk)
        self._text, self._position, self._counted = "".join(chunks), 0, 0
        return len(chunks) > 1
