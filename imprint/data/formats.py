"""Samples from a file of JSON lines or of one JSON array; every bad row is named, none is dropped."""

import difflib
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from imprint.data.sample import Sample
from imprint.errors import UserError

LISTED = 10
"""How many bad rows an error lists before it only counts."""


@dataclass(frozen=True)
class Columns:
    """Which columns of a row are read."""

    prompt: str
    """The column of the question."""
    response: str
    """The column of the answer."""
    history: str | None
    """The column of the earlier turns, if there is one."""


class BadRowError(ValueError):
    """What is wrong with one row, as the end of a sentence that starts with its place."""


def read_samples(
    path: Path | str, *, prompt_column: str, response_column: str, history_column: str | None = None, limit: int | None = None
) -> list[Sample]:
    """Read the rows of a UTF-8 file: JSON objects, one a line, or all of them in one JSON array, whatever the file is called.

    `limit` reads and checks only so many rows. Raises UserError for a file that cannot be read or holds no row, and one UserError for all
    bad rows together, each with `file:line`, what was found and what is allowed. Lines without anything but blanks are no rows.
    """
    path = Path(path)
    columns = Columns(prompt_column, response_column, history_column)
    text = _read_text(path)
    rows = _array_rows(text) if text.lstrip().startswith("[") else _line_rows(text)
    samples: list[Sample] = []
    problems: list[str] = []
    for line, row in islice(rows, limit):
        place = f"{path}:{line}"
        try:
            samples.append(_sample(row, columns, place))
        except BadRowError as problem:
            problems.append(f"{place}: {problem}")
    if problems:
        raise UserError(_report(problems, path, len(samples)))
    if not samples:
        raise UserError(f'{path} holds no rows. It needs at least one, such as {{"{prompt_column}": "...", "{response_column}": "..."}}.')
    return samples


def _report(problems: list[str], path: Path, good: int) -> str:
    if len(problems) == 1:
        return f"{problems[0]} Mend this row; nothing was read."
    more = f"\nand {len(problems) - LISTED} more." if len(problems) > LISTED else ""
    head = f"{path}: {len(problems)} of {len(problems) + good} rows are bad. Mend them; nothing was read."
    return "\n".join([head, *problems[:LISTED]]) + more


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file. Give the path of a file of JSON lines or of one JSON array.") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder. Give the path of a file of JSON lines or of one JSON array in it.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path} is UTF-16, but must be UTF-8. {_conversion(path, 'UTF-16')}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"{path}:{line}: byte 0x{content[error.start]:02X} at offset {error.start} is not UTF-8, and the file must be UTF-8."
        if content[: error.start].isascii() and _decodes(content, "gb18030"):
            raise UserError(f"{problem} It seems to be GB18030 (or GBK). {_conversion(path, 'GB18030')}") from error
        raise UserError(f"{problem} Mend this line or export the file again.") from error


def _conversion(path: Path, encoding: str) -> str:
    old, new = shlex.quote(str(path)), shlex.quote(str(path.with_suffix(f".utf8{path.suffix}")))
    return f"Convert it with `iconv -f {encoding} -t UTF-8 {old} > {new}` and name the new file."


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _line_rows(text: str) -> Iterator[tuple[int, object]]:
    """The (line, value) of each row; a value that is no JSON is a BadRowError."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            yield (
                number,
                BadRowError(f"is no JSON: {error.msg} at column {error.colno}, in {_quote(line)}. Each line must be one JSON object."),
            )
        except (ValueError, RecursionError):
            yield number, BadRowError(f"is no JSON that can be read, too deep or with too long a number: {_quote(line)}.")


def _array_rows(text: str) -> Iterator[tuple[int, object]]:
    """The (line where it starts, value) of each element of one array; what is behind an element that is no JSON cannot be read."""
    decoder = json.JSONDecoder()
    place = _skip_blanks(text, text.index("[") + 1)
    counted, line = 0, 1
    while text[place : place + 1] != "]":
        line += text.count("\n", counted, place)
        counted = place
        try:
            value, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            yield error.lineno, BadRowError(f"the array is no JSON from here on: {error.msg} at column {error.colno}.")
            return
        except (ValueError, RecursionError):
            yield line, BadRowError("is no JSON that can be read, too deep or with too long a number.")
            return
        yield line, value
        place = _skip_blanks(text, place)
        if text[place : place + 1] == ",":
            place = _skip_blanks(text, place + 1)
        elif text[place : place + 1] != "]":
            found = f"got {_quote(text[place : place + 40])}" if place < len(text) else "the file ends"
            yield 1 + text.count("\n", 0, place), BadRowError(f"behind an element of the array there must be a comma or `]`, but {found}.")
            return
    rest = _skip_blanks(text, place + 1)
    if rest < len(text):
        found = _quote(text[rest : rest + 40])
        yield 1 + text.count("\n", 0, rest), BadRowError(f"behind the `]` of the array nothing may follow, got {found}.")


def _skip_blanks(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place


def _sample(row: object, columns: Columns, place: str) -> Sample:
    if isinstance(row, BadRowError):
        raise row
    if not isinstance(row, dict):
        raise BadRowError(f"must be a JSON object with columns, got {_describe(row)}.")
    query = _text(_column(row, columns.prompt, "prompt_column"), columns.prompt)
    answer = _text(_column(row, columns.response, "response_column"), columns.response)
    history = None if columns.history is None else _history(_column(row, columns.history, "history_column"), columns.history)
    return Sample(query, answer, history, place)


def _column(row: dict[str, object], name: str, knob: str) -> object:
    if name in row:
        return row[name]
    there = ", ".join(f'"{key}"' for key in row) or "none"
    spelled = {key.lower(): key for key in row}
    close = difflib.get_close_matches(name.lower(), spelled, n=1)
    hint = f' Did you mean "{spelled[close[0]]}"?' if close else ""
    raise BadRowError(f'there is no column "{name}", which {knob} names; the columns are: {there}.{hint}')


def _text(value: object, column: str) -> str:
    if not isinstance(value, str):
        raise BadRowError(f'"{column}" must be a text, got {_describe(value)}.')
    if not value.strip():
        raise BadRowError(f'"{column}" must not be empty, got {_describe(value)}.')
    return _encodable(value, column)


def _history(value: object, column: str) -> tuple[tuple[str, str], ...] | None:
    """The turns of a history; null is a row without one."""
    if value is None:
        return None
    if not isinstance(value, list):
        raise BadRowError(f'"{column}" must be a list of [question, answer] pairs, got {_describe(value)}.')
    turns = []
    for number, turn in enumerate(value, start=1):
        match turn:
            case [str(question), str(answer)]:
                turns.append((_encodable(question, column), _encodable(answer, column)))
            case _:
                raise BadRowError(f'turn {number} of "{column}" must be a [question, answer] pair of texts, got {_describe(turn)}.')
    return tuple(turns)


def _encodable(text: str, column: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise BadRowError(f'"{column}" holds half a character, {half}, without its other half. Write the whole character.') from error
    return text


def _describe(value: object) -> str:
    """The kind of a JSON value and its beginning: `a string ("...")`."""
    match value:
        case None:
            return "null"
        case bool():
            return f"a truth value ({json.dumps(value)})"
        case int() | float():
            return f"a number ({value})"
        case str():
            return f"a string ({_quote(value)})"
        case list():
            return f"a list ({_clip(json.dumps(value, ensure_ascii=False))})"
    return f"an object ({_clip(json.dumps(value, ensure_ascii=False))})"


def _quote(text: str) -> str:
    return f'"{_clip(text)}"'


def _clip(text: str, size: int = 40) -> str:
    """The beginning of a text on one line, whatever cannot be printed escaped."""
    shown = text if len(text) <= size else text[:size] + "..."
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in shown)
