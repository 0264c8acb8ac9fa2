"""The rows of a source, read one after another in bounded memory, each with its place."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from imprint.data.readers.bad_rows import quote
from imprint.data.readers.encodings import ReportBytes
from imprint.data.readers.json_rows import array_rows, line_rows, object_rows
from imprint.data.readers.sources import DataFile, data_files, detect_format, parse_source, skipped_files
from imprint.data.readers.tables import csv_rows
from imprint.data.readers.workbooks import parquet_rows, sheet_names, workbook_rows
from imprint.data.shapes import Columns, detect_shape
from imprint.errors import UserError

DRAW_SEED = 0
JSON_READERS: Final = MappingProxyType({"a JSON array": array_rows, "JSON objects": object_rows, "JSON lines": line_rows})
MAX_LISTED = 5
"""How many files or columns a sentence names before it only counts."""


def read_rows(source: str | Path, *, report_bytes: ReportBytes | None = None) -> Iterator[tuple[str, object]]:
    """The (place, row) of each row of a file, of all files of a folder, or of `path#500`: 500 rows drawn at random, in their order.

    A row is a dict, or a BadRowError value that says what is wrong with it. A place is `file:line`, in a workbook `file.xlsx!Sheet1:12`, in
    Parquet `file:row`. `report_bytes` is told how many more bytes have been read. Raises UserError for what cannot be read at all.
    """
    found = parse_source(source)
    rows = (row for path in data_files(found.path) for row in file_rows(detect_format(path), report_bytes))
    return rows if found.count is None else draw_rows(rows, found.count)


def file_rows(file: DataFile, report_bytes: ReportBytes | None = None) -> Iterator[tuple[str, object]]:
    """The (place, row) of each row of one file."""
    try:
        if file.encoding is None:
            read = parquet_rows if file.format == "Parquet" else workbook_rows
            yield from read(file.path, report_bytes)
            return
        if file.format in ("CSV", "TSV"):
            numbered = csv_rows(file.path, file.encoding, file.delimiter, report_bytes)
        else:
            numbered = JSON_READERS[file.format](file.path, file.encoding, report_bytes)
        for line, row in numbered:
            yield f"{file.path}:{line}", row
    except OSError as error:
        raise UserError(f"{file.path} cannot be read any further: {error.strerror or error}. Is the disk still there?") from error


def draw_rows(rows: Iterator[tuple[str, object]], count: int) -> Iterator[tuple[str, object]]:
    """So many rows, each with the same chance and always the same ones, in their order; all where there are fewer.

    Source: algorithm R in Vitter, Random Sampling with a Reservoir, 1985.
    """
    rng = random.Random(DRAW_SEED)
    kept: dict[int, tuple[int, tuple[str, object]]] = {}
    for index, row in enumerate(rows):
        slot = index if index < count else rng.randrange(index + 1)
        if slot < count:
            kept[slot] = index, row
    for _index, row in sorted(kept.values(), key=lambda entry: entry[0]):
        yield row


def source_bytes(source: str | Path) -> int:
    """How many bytes a source has, for a progress bar."""
    try:
        return sum(path.stat().st_size for path in data_files(parse_source(source).path))
    except OSError as error:
        raise UserError(f"{source} cannot be read: {error.strerror}.") from error


def describe_source(source: str | Path, columns: Columns | None = None) -> str:
    """One sentence: which files, in which format and encoding, how their columns are read, and what is not read.

    Raises UserError as `read_rows`.
    """
    found = parse_source(source)
    paths = data_files(found.path)
    descriptions = [_describe_file(detect_format(path), columns or Columns()) for path in paths]
    if found.path.is_dir():
        names = [str(path.relative_to(found.path)) for path in paths]
        alike = len(set(descriptions)) == 1
        listed = (
            f"{list_names(names)}: {descriptions[0]}"
            if alike
            else "; ".join(f"{name}: {text}" for name, text in zip(names, descriptions, strict=True))
        )
        others = skipped_files(found.path)
        files = "1 file" if len(paths) == 1 else f"{len(paths)} files"
        text = f"{found.path}: {files}: {listed}" + (f"; no data, not read: {list_names(others)}" if others else "")
    else:
        text = f"{found.path}: {descriptions[0]}"
    return text + (f"; {found.count} rows of it are drawn at random." if found.count else ".")


def _describe_file(file: DataFile, columns: Columns) -> str:
    first = next((row for _place, row in file_rows(file) if isinstance(row, dict)), None)
    form = file.description + (_describe_sheets(file.path) if file.format == "an Excel workbook" else "")
    if first is None:
        return f"{form}, without a row"
    shape = detect_shape(first, columns)
    too = [f'"{name}"' for name in shape.optional_columns if name in first]
    if missing := [quote(name) for name in (shape.prompt, shape.response) if shape.kind == "named" and name not in first]:
        return (
            f"{form}; there is no column {' and no '.join(missing)} among {list_names([quote(name) for name in first]) or 'none'}; "
            "prompt_column=... and response_column=... say which are the question and the answer"
        )
    others = [quote(name) for name in first if name not in shape.read_columns]
    read_too = f", {' and '.join(too)} {'is' if len(too) == 1 else 'are'} read too" if too else ""
    return f"{form}; {shape.summary()}{read_too}" + (f"; not read: {list_names(others)}" if others else "")


def _describe_sheets(path: Path) -> str:
    visible, hidden = ([quote(name) for name in names] for names in sheet_names(path))
    not_read = f"; hidden, not read: {list_names(hidden)}" if hidden else ""
    return f" (sheet{'s' if len(visible) != 1 else ''} {list_names(visible) or 'none'}{not_read})"


def list_names(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:MAX_LISTED]) + (f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else "")
