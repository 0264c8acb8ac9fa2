"""Raw text as documents: files of plain text, and a column of rows in any format, read one after another in bounded memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from imprint.data.readers.bad_rows import BadRowError, non_empty_text, quote
from imprint.data.readers.encodings import Encoding, ReportBytes, read_lines, undecodable_error
from imprint.data.readers.rows import file_rows, list_names
from imprint.data.readers.sources import DATA_SUFFIXES, data_files, detect_format, parse_source, plain_encoding, skipped_files
from imprint.errors import UserError

LONGEST_PART: Final = 2**20
"""Characters that are read at once; a longer document comes in several passages."""
PLAIN_NAMES: Final = (".txt", ".text")
"""Files of plain text in a folder; a file that is named itself is plain text unless it is called like rows."""
TEXT_NAMES: Final = (*DATA_SUFFIXES, *PLAIN_NAMES)
TEXT_COLUMNS: Final = ("text", "content", "document", "body", "正文", "内容", "文本")
"""Names of a column of text, the surest first."""


@dataclass(frozen=True)
class DocumentPart:
    """A document, or a part of one that is too long to be read at once."""

    text: str
    """What it says, newlines as "\\n"."""
    location: str
    """Where its document begins: "file:line"."""
    first: bool = True
    """Whether the document begins with it."""
    last: bool = True
    """Whether the document ends with it."""


LocatedPart = tuple[str, DocumentPart | BadRowError]
"""A place, and the passage there or what is wrong with it."""


def list_text_files(source: str | Path) -> list[Path]:
    """The files of a source of raw text, those of a folder sorted by their names.

    Raises UserError where there is none, and for `path#500`: documents are not drawn.
    """
    found = parse_source(source)
    if found.count is not None:
        raise UserError(
            f"{source}: documents are read in their order and not drawn, so nothing may stand behind the name. Leave out #{found.count}; "
            "data.train_rows reads only the beginning."
        )
    return data_files(found.path, TEXT_NAMES)


def describe_file_count(source: str | Path) -> str:
    """How many files of a source are read, and which are not, in one phrase. Raises UserError as `list_text_files`."""
    count, others = len(list_text_files(source)), skipped_files(Path(source), TEXT_NAMES)
    return ("1 file" if count == 1 else f"{count} files") + (f" (not read: {list_names(others)})" if others else "")


def read_document_parts(
    source: str | Path, *, column: str | None = None, blank_lines: bool = False, report_bytes: ReportBytes | None = None
) -> Iterator[LocatedPart]:
    """The (location, passage) of each document of a file, or of all files of a folder, or what is wrong with it.

    A file of plain text is one document, or with `blank_lines` as many as blank lines part. Of rows, `column` is the text; None takes the
    first of TEXT_COLUMNS that is there. `report_bytes` gets the number of bytes read since its last call.
    Raises UserError for what cannot be read.
    """
    return chain.from_iterable(_file_parts(path, column, report_bytes, blank_lines=blank_lines) for path in list_text_files(source))


def is_plain_text(path: Path) -> bool:
    """Whether a file is read as plain text: its name says nothing else."""
    return path.suffix.lower() not in DATA_SUFFIXES


def _file_parts(path: Path, column: str | None, report_bytes: ReportBytes | None, *, blank_lines: bool) -> Iterator[LocatedPart]:
    if is_plain_text(path):
        return _text_parts(path, plain_encoding(path), report_bytes, blank_lines=blank_lines)
    return _row_parts(path, column, report_bytes)


def _row_parts(path: Path, column: str | None, report_bytes: ReportBytes | None) -> Iterator[LocatedPart]:
    for location, row in file_rows(detect_format(path), report_bytes):
        try:
            text = _row_text(row, column)
        except BadRowError as problem:
            yield location, problem
            continue
        for start in range(0, len(text), LONGEST_PART):
            end = start + LONGEST_PART
            yield location, DocumentPart(text[start:end], location, first=start == 0, last=end >= len(text))


def _row_text(row: object, column: str | None) -> str:
    """The text of a row; raises BadRowError where it has none."""
    if isinstance(row, BadRowError):
        raise row
    assert isinstance(row, Mapping), "a reader yields rows or what is wrong with them"
    name = next((name for name in (TEXT_COLUMNS if column is None else (column,)) if name in row), None)
    if name is None:
        there = ", ".join(quote(str(name)) for name in row) or "none"
        wanted = "no column of text" if column is None else f"no column {quote(column)}"
        raise BadRowError(f"has {wanted}; its columns are {there}. text_column=... says which is the text.")
    return non_empty_text(row[name], name).replace("\r\n", "\n")


def _text_parts(path: Path, encoding: Encoding, report_bytes: ReportBytes | None, *, blank_lines: bool) -> Iterator[LocatedPart]:
    """The documents of a file of plain text, without the blank lines around them; a long one is cut at the ends of lines."""
    location, size, first = "", 0, True
    held: list[str] = []
    for number, line in _clean_lines(path, encoding, report_bytes):
        if isinstance(line, BadRowError):
            yield f"{path}:{number}", line
        elif line.strip() or ((held or not first) and not blank_lines):
            if first and not held:
                location = f"{path}:{number}"
            held.append(line)
            size += len(line) + 1
            if size >= LONGEST_PART:
                yield location, DocumentPart("\n".join(held) + "\n", location, first=first, last=False)
                held, size, first = [], 0, False
        elif blank_lines and (held or not first):
            yield location, DocumentPart("\n".join(held), location, first=first)
            held, size, first = [], 0, True
    if held or not first:
        yield location, DocumentPart("\n".join(held).rstrip(), location, first=first)


def _clean_lines(path: Path, encoding: Encoding, report_bytes: ReportBytes | None) -> Iterator[tuple[int, str | BadRowError]]:
    """Each line with its number, or what is wrong with it."""
    try:
        for number, line in read_lines(path, encoding, report_bytes):
            wrong = line if isinstance(line, BadRowError) else undecodable_error(line, encoding)
            yield number, wrong or str(line).rstrip("\r")
    except OSError as error:
        raise UserError(f"{path} cannot be read any further: {error.strerror or error}. Is the disk still there?") from error
