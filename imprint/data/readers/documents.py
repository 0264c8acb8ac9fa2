"""Documents from files of plain text or from a column of rows in any format, read one by one in bounded memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from imprint.data.readers.bad_rows import BadRowError, non_empty_text, quote, quote_names
from imprint.data.readers.encodings import Encoding, ReportBytes, read_lines, undecodable_error
from imprint.data.readers.rows import file_rows, interrupted_read_error, list_names
from imprint.data.readers.sources import DATA_SUFFIXES, data_files, detect_format, parse_source, plain_encoding, skipped_files
from imprint.messages import Bilingual, UserError

MAX_PART: Final = 2**20
"""Maximum characters of a part; a longer document has several."""
PLAIN_SUFFIXES: Final = (".txt", ".text")
"""Suffixes of plain text in a folder; a file given by name is plain text unless it has a suffix of rows."""
TEXT_SUFFIXES: Final = (*DATA_SUFFIXES, *PLAIN_SUFFIXES)
TEXT_COLUMNS: Final = ("text", "content", "document", "body", "正文", "内容", "文本")
"""Names of a column of text, in order of preference."""


@dataclass(frozen=True)
class DocumentPart:
    """A document, or a part of a long one."""

    text: str
    """Its text, newlines as "\\n"."""
    location: str
    """Location of its document: "file:line"."""
    first: bool = True
    """Whether it is the first part of the document."""
    last: bool = True
    """Whether it is the last part of the document."""


LocatedPart = tuple[str, DocumentPart | BadRowError]
"""(location, part or its error)."""


def list_text_files(source: str | Path) -> list[Path]:
    """The files of a source of raw text, sorted by name.

    Raises UserError if there is none, and for `path#500`: documents are not sampled.
    """
    parsed = parse_source(source)
    if parsed.count is not None:
        raise UserError(
            Bilingual(
                f"{source}: documents are read in order and not sampled. Leave out #{parsed.count}; data.train_rows uses "
                "only the first rows.",
                f"{source}：文档按顺序读取，不支持抽样：请去掉 #{parsed.count}；data.train_rows 可只用开头的行。",
            )
        )
    return data_files(parsed.path, TEXT_SUFFIXES)


def describe_file_count(source: str | Path, column: str | None = None) -> Bilingual:
    """The number of files that are read, the names of skipped ones, and those of columns that are not read.

    `column`: as in `read_document_parts`. Raises UserError as `list_text_files`.
    """
    files, skipped = list_text_files(source), skipped_files(Path(source), TEXT_SUFFIXES)
    english, chinese = "1 file" if len(files) == 1 else f"{len(files)} files", f"{len(files)} 个文件"
    if skipped:
        names = list_names(skipped)
        english, chinese = f"{english} (not read: {names.english})", f"{chinese}（未读取：{names.chinese}）"
    columns = list(dict.fromkeys(name for path in files if not is_plain_text(path) for name in _unread_columns(path, column)))
    if columns:
        names = list_names([quote(name) for name in columns])
        english, chinese = f"{english} (columns not read: {names.english})", f"{chinese}（未读取的列：{names.chinese}）"
    return Bilingual(english, chinese)


def _unread_columns(path: Path, column: str | None) -> list[str]:
    """The columns of the first row of a file but that of the text."""
    row = next((row for _location, row in file_rows(detect_format(path)) if isinstance(row, dict)), {})
    return [name for name in row if name != _text_column(row, column)]


def _text_column(row: Mapping[str, object], column: str | None) -> str | None:
    return next((name for name in (TEXT_COLUMNS if column is None else (column,)) if name in row), None)


def read_document_parts(
    source: str | Path, *, column: str | None = None, blank_lines: bool = False, report_bytes: ReportBytes | None = None
) -> Iterator[LocatedPart]:
    """The (location, part or error) pairs of all documents of a file or a folder.

    A file of plain text is one document; with `blank_lines`, blank lines separate documents. `column` is the text column of rows; None
    takes the first of TEXT_COLUMNS in the row. `report_bytes` gets the number of bytes read since its last call.
    Raises UserError for what cannot be read.
    """
    return chain.from_iterable(_file_parts(path, column, report_bytes, blank_lines=blank_lines) for path in list_text_files(source))


def is_plain_text(path: Path) -> bool:
    """Whether a file is read as plain text: it has no suffix of rows."""
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
        for start in range(0, len(text), MAX_PART):
            end = start + MAX_PART
            yield location, DocumentPart(text[start:end], location, first=start == 0, last=end >= len(text))


def _row_text(row: object, column: str | None) -> str:
    """The text of a row. Raises BadRowError if it has none."""
    if isinstance(row, BadRowError):
        raise row
    assert isinstance(row, Mapping), "readers yield objects or BadRowErrors"
    name = _text_column(row, column)
    if name is None:
        columns = quote_names(row)
        missing, chinese = ("no column of text", "文本列") if column is None else (f"no column {quote(column)}", f" {quote(column)} 列")
        raise BadRowError(
            Bilingual(
                f"has {missing}; its columns are {columns.english}. Set text_column=... to the column of the text.",
                f"没有{chinese}；现有列：{columns.chinese}。请用 text_column=... 指定文本列。",
            )
        )
    return non_empty_text(row[name], name).replace("\r\n", "\n")


def _text_parts(path: Path, encoding: Encoding, report_bytes: ReportBytes | None, *, blank_lines: bool) -> Iterator[LocatedPart]:
    """The documents of a file of plain text, without blank lines around them; a long one is split at line ends, a long line anywhere."""
    location, size, first = "", 0, True
    lines: list[str] = []
    for number, line in _clean_lines(path, encoding, report_bytes):
        if isinstance(line, BadRowError):
            yield f"{path}:{number}", line
        elif line.strip() or ((lines or not first) and not blank_lines):
            if first and not lines:
                location = f"{path}:{number}"
            lines.append(line)
            size += len(line) + 1
            if size >= MAX_PART:
                text, lines, size = "\n".join(lines) + "\n", [], 0
                for part in _divided(text):
                    yield location, DocumentPart(part, location, first=first, last=False)
                    first = False
        elif blank_lines and (lines or not first):
            yield location, DocumentPart("\n".join(lines), location, first=first)
            lines, size, first = [], 0, True
    if lines or not first:
        yield location, DocumentPart("\n".join(lines).rstrip(), location, first=first)


def _divided(text: str) -> Iterator[str]:
    """A text of lines in parts of MAX_PART characters, the last one of at most twice as many: a line may be as long as a row."""
    start = 0
    while len(text) - start > 2 * MAX_PART:
        yield text[start : start + MAX_PART]
        start += MAX_PART
    yield text[start:]


def _clean_lines(path: Path, encoding: Encoding, report_bytes: ReportBytes | None) -> Iterator[tuple[int, str | BadRowError]]:
    """(line number, line or its error) pairs."""
    try:
        for number, line in read_lines(path, encoding, report_bytes):
            problem = line if isinstance(line, BadRowError) else undecodable_error(line, encoding)
            yield number, problem or str(line).rstrip("\r")
    except OSError as error:
        raise interrupted_read_error(path, error) from error
