"""Writes samples to files in a normal form, which `read_samples` reads back as equal samples.

A row is {"prompt", "response"}, with "history" for earlier turns and "system" for a system prompt. In a table all rows have the columns
that any row needs; CSV, TSV and Excel hold a history as JSON text.
"""

import csv
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Final

from imprint.data.readers.tables import MAX_CELL
from imprint.data.readers.workbooks import EXCEL_ROWS, escape_cell
from imprint.data.sample import Sample
from imprint.files.atomic import atomic_file
from imprint.files.scratch import scratch_folder
from imprint.messages import Bilingual, UserError

PROMPT, RESPONSE, HISTORY, SYSTEM = "prompt", "response", "history", "system"
MAX_EXCEL_CELL: Final = 32_767
GROUP_ROWS: Final = 20_000
"""Rows of a Parquet row group, which are in memory at once."""
UNWRITABLE: Final = re.compile("[\ufffe\uffff]")
"""Characters that XML, and so a workbook, cannot hold."""


def write_samples(path: Path, samples: Iterable[Sample], *, history: bool = True, system: bool = True) -> None:
    """Write samples in the format given by the suffix of `path`; an existing file is replaced only when all are written.

    `history`, `system`: whether a table has these columns. Raises UserError for an unknown suffix, and for what a format cannot hold.
    """
    write = WRITERS[output_suffix(path)]
    columns = [PROMPT, RESPONSE, *([HISTORY] if history else []), *([SYSTEM] if system else [])]
    with atomic_file(path) as temporary:
        write(temporary, samples, columns)


def output_suffix(path: Path) -> str:
    """The suffix of a file to write. Raises UserError for an unknown one."""
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise UserError(
            Bilingual(
                f'{path}: rows cannot be written as "{suffix}". The name must end in one of {", ".join(WRITERS)}.',
                f"{path}：不支持写出这种格式：文件名须以 {'、'.join(WRITERS)} 之一结尾。",
            )
        )
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


def _write_jsonl(temporary: Path, samples: Iterable[Sample], _columns: Sequence[str]) -> None:
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        for sample in samples:
            file.write(_as_json(sample_to_row(sample)) + "\n")


def _write_json_array(temporary: Path, samples: Iterable[Sample], _columns: Sequence[str]) -> None:
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        separator = "[\n"
        for sample in samples:
            file.write(separator + _as_json(sample_to_row(sample)))
            separator = ",\n"
        file.write("\n]\n")


def _cells(sample: Sample, columns: Sequence[str], max_characters: int, format_name: str) -> list[str]:
    """A sample as cells of text. Raises UserError for a text that is too long for a cell."""
    row = sample_to_row(sample)
    cells = [value if isinstance(value, str) else _as_json(value) if value is not None else "" for value in map(row.get, columns)]
    for name, cell in zip(columns, cells, strict=True):
        if len(cell) > max_characters:
            raise UserError(
                Bilingual(
                    f'{sample.location}: "{name}" has {len(cell)} characters, but a cell of {format_name} holds {max_characters}. '
                    "Write .jsonl instead.",
                    f"{sample.location}：文本过长，{format_name} 的单元格最多 {max_characters} 个字符：请写成 .jsonl。",
                )
            )
    return cells


def _write_delimited(temporary: Path, samples: Iterable[Sample], columns: Sequence[str], delimiter: str, format_name: str) -> None:
    # Without a byte order mark, Excel assumes the encoding of the locale.
    with temporary.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\r\n")
        writer.writerow(columns)
        for sample in samples:
            writer.writerow(_cells(sample, columns, MAX_CELL, format_name))


def _write_csv(temporary: Path, samples: Iterable[Sample], columns: Sequence[str]) -> None:
    _write_delimited(temporary, samples, columns, ",", "CSV")


def _write_tsv(temporary: Path, samples: Iterable[Sample], columns: Sequence[str]) -> None:
    _write_delimited(temporary, samples, columns, "\t", "TSV")


def _write_workbook(temporary: Path, samples: Iterable[Sample], columns: Sequence[str]) -> None:
    try:
        from openpyxl import Workbook
        from openpyxl.cell import WriteOnlyCell
    except ImportError as error:
        raise UserError(
            Bilingual(
                "openpyxl, which writes Excel, is not installed. Run `pip install 'imprint[tables]'`, or write .csv.",
                "未安装写 Excel 的 openpyxl：请运行 pip install 'imprint[tables]'，或写成 .csv。",
            )
        ) from error
    book = Workbook(write_only=True)
    sheet = book.create_sheet("rows")
    with scratch_folder() as folder:
        with _temporary_files_in(folder):
            sheet.append(list(columns))  # now the library makes its file of the sheet, which a kill would leave behind
        try:
            for number, sample in enumerate(samples, start=2):
                if number > EXCEL_ROWS:
                    raise UserError(
                        Bilingual(
                            f"a sheet of Excel holds {EXCEL_ROWS - 1} rows, and there are more. Write .csv or .parquet instead.",
                            f"Excel 工作表最多 {EXCEL_ROWS - 1} 行：请写成 .csv 或 .parquet。",
                        )
                    )
                cells = []
                for name, text in zip(columns, _cells(sample, columns, MAX_EXCEL_CELL, "Excel"), strict=True):
                    if match := UNWRITABLE.search(text):
                        raise UserError(
                            Bilingual(
                                f'{sample.location}: "{name}" holds U+{ord(match[0]):04X}, which Excel does not support. '
                                "Write .jsonl instead.",
                                f"{sample.location}：文本中有 Excel 不支持的字符 U+{ord(match[0]):04X}：请写成 .jsonl。",
                            )
                        )
                    cell = WriteOnlyCell(sheet, value=escape_cell(text))
                    cell.data_type = "s"  # a text, even if it begins with "="
                    cells.append(cell)
                sheet.append(cells)
        finally:
            sheet.close()
        with temporary.open("wb") as file:
            book.save(file)


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Inside this block Python's `tempfile` makes its files in this folder."""
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _write_parquet(temporary: Path, samples: Iterable[Sample], columns: Sequence[str]) -> None:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetWriter
    except ImportError as error:
        raise UserError(
            Bilingual(
                "pyarrow, which writes Parquet, is not installed. Run `pip install 'imprint[tables]'`, or write .jsonl.",
                "未安装写 Parquet 的 pyarrow：请运行 pip install 'imprint[tables]'，或写成 .jsonl。",
            )
        ) from error
    text = pyarrow.string()
    types = {HISTORY: pyarrow.list_(pyarrow.list_(text))}
    schema = pyarrow.schema([(name, types.get(name, text)) for name in columns])
    with ParquetWriter(temporary, schema) as writer:
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
