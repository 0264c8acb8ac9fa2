"""Samples written to a file, in one normal form that `read_samples` reads back as equal samples.

A row is {"prompt", "response"}, with "history" where there are earlier turns and "system" where the model is told something first. In a
table all rows have the columns that any row needs; CSV, TSV and Excel hold a history as JSON text.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Final

from imprint.data.readers.tables import LONGEST_CELL
from imprint.data.readers.workbooks import EXCEL_ROWS, escape_cell
from imprint.data.sample import Sample
from imprint.errors import UserError
from imprint.files import atomic_file

PROMPT, RESPONSE, HISTORY, SYSTEM = "prompt", "response", "history", "system"
LONGEST_EXCEL_CELL: Final = 32_767
GROUP_ROWS: Final = 20_000
"""Rows that Parquet keeps together, and that are in memory at once."""
UNWRITABLE: Final = re.compile("[\ufffe\uffff]")
"""Characters that no XML and so no workbook can hold."""


def write_samples(path: Path, samples: Iterable[Sample], *, history: bool = True, system: bool = True) -> None:
    """Write samples one after another in the format that the ending of `path` names; what is there before stays until all are written.

    `history` and `system` say whether a table has these columns. Raises UserError for another ending, and for what a format cannot hold.
    """
    write = WRITERS[output_suffix(path)]
    columns = [PROMPT, RESPONSE, *([HISTORY] if history else []), *([SYSTEM] if system else [])]
    with atomic_file(path) as part:
        write(part, samples, columns)


def output_suffix(path: Path) -> str:
    """The ending of a file that can be written; raises UserError for another one."""
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise UserError(f'{path}: rows cannot be written as "{suffix}". The name must end in one of {", ".join(WRITERS)}.')
    return suffix


def sample_to_row(sample: Sample) -> dict[str, object]:
    """A sample as a row of the normal form."""
    row: dict[str, object] = {PROMPT: sample.query, RESPONSE: sample.answer}
    if sample.history is not None:
        row[HISTORY] = [list(turn) for turn in sample.history]
    if sample.system is not None:
        row[SYSTEM] = sample.system
    return row


def _as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _write_jsonl(part: Path, samples: Iterable[Sample], _columns: Sequence[str]) -> None:
    with part.open("w", encoding="utf-8", newline="\n") as file:
        for sample in samples:
            file.write(_as_json(sample_to_row(sample)) + "\n")


def _write_json_array(part: Path, samples: Iterable[Sample], _columns: Sequence[str]) -> None:
    with part.open("w", encoding="utf-8", newline="\n") as file:
        before = "[\n"
        for sample in samples:
            file.write(before + _as_json(sample_to_row(sample)))
            before = ",\n"
        file.write("\n]\n")


def _cells(sample: Sample, columns: Sequence[str], longest: int, form: str) -> list[str]:
    """A sample as cells of text."""
    row = sample_to_row(sample)
    cells = [value if isinstance(value, str) else _as_json(value) if value is not None else "" for value in map(row.get, columns)]
    for name, cell in zip(columns, cells, strict=True):
        if len(cell) > longest:
            raise UserError(
                f'{sample.location}: "{name}" has {len(cell)} characters, but a cell of {form} holds {longest}. Write .jsonl instead.'
            )
    return cells


def _write_delimited(part: Path, samples: Iterable[Sample], columns: Sequence[str], delimiter: str, form: str) -> None:
    # Excel takes a file without a byte order mark for one in the encoding of the country.
    with part.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\r\n")
        writer.writerow(columns)
        for sample in samples:
            writer.writerow(_cells(sample, columns, LONGEST_CELL, form))


def _write_csv(part: Path, samples: Iterable[Sample], columns: Sequence[str]) -> None:
    _write_delimited(part, samples, columns, ",", "CSV")


def _write_tsv(part: Path, samples: Iterable[Sample], columns: Sequence[str]) -> None:
    _write_delimited(part, samples, columns, "\t", "TSV")


def _write_workbook(part: Path, samples: Iterable[Sample], columns: Sequence[str]) -> None:
    try:
        from openpyxl import Workbook
        from openpyxl.cell import WriteOnlyCell
    except ImportError as error:
        raise UserError("openpyxl, which writes Excel, is not there. Run `pip install 'imprint[tables]'`, or write .csv.") from error
    book = Workbook(write_only=True)
    sheet = book.create_sheet("rows")
    sheet.append(list(columns))
    try:
        for number, sample in enumerate(samples, start=2):
            if number > EXCEL_ROWS:
                raise UserError(f"a sheet of Excel holds {EXCEL_ROWS - 1} rows, and there are more. Write .csv or .parquet instead.")
            cells = []
            for name, text in zip(columns, _cells(sample, columns, LONGEST_EXCEL_CELL, "Excel"), strict=True):
                if found := UNWRITABLE.search(text):
                    raise UserError(f'{sample.location}: "{name}" holds U+{ord(found[0]):04X}, which Excel cannot. Write .jsonl instead.')
                cell = WriteOnlyCell(sheet, value=escape_cell(text))
                cell.data_type = "s"  # also what begins with "="
                cells.append(cell)
            sheet.append(cells)
    finally:
        sheet.close()
    with part.open("wb") as file:
        book.save(file)


def _write_parquet(part: Path, samples: Iterable[Sample], columns: Sequence[str]) -> None:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetWriter
    except ImportError as error:
        raise UserError("pyarrow, which writes Parquet, is not there. Run `pip install 'imprint[tables]'`, or write .jsonl.") from error
    text = pyarrow.string()
    types = {HISTORY: pyarrow.list_(pyarrow.list_(text))}
    schema = pyarrow.schema([(name, types.get(name, text)) for name in columns])
    with ParquetWriter(part, schema) as writer:
        for rows in _in_groups(map(sample_to_row, samples), GROUP_ROWS):
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


def _in_groups(rows: Iterator[dict[str, object]], size: int) -> Iterator[list[dict[str, object]]]:
    while group := list(islice(rows, size)):
        yield group


Writer = Callable[[Path, Iterable[Sample], Sequence[str]], None]
WRITERS: Final[Mapping[str, Writer]] = MappingProxyType(
    {
        ".jsonl": _write_jsonl,
        ".ndjson": _write_jsonl,
        ".json": _write_json_array,
        ".csv": _write_csv,
        ".tsv": _write_tsv,
        ".xlsx": _write_workbook,
        ".parquet": _write_parquet,
    }
)
