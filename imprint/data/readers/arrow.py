"""Rows of Parquet and of Arrow, which `save_to_disk` of Hugging Face's datasets writes; read with pyarrow if installed."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from imprint.data.readers.arrow_sizes import BATCH_BYTES, BATCH_ROWS, ROW_BYTES, small_batches, unpacked_bytes
from imprint.data.readers.bad_rows import BadRowError, first_line
from imprint.data.readers.encodings import MAX_ROW_CHARACTERS, PACKED_RATIO, ReportBytes, too_long_error
from imprint.data.readers.parquet_pages import read_pages
from imprint.data.readers.tables import Header
from imprint.messages import Bilingual, UserError

if TYPE_CHECKING:
    from pyarrow import Array, NativeFile, RecordBatch, RecordBatchReader

ARROW_FILE: Final = b"ARROW1"
"""Start of an Arrow file; one without it is a stream."""
FILE_HEAD: Final = 8
"""Bytes of an Arrow file before the stream in it."""


@dataclass(frozen=True)
class StoredValue:
    """A cell of a column with values that Python does not have, such as nanoseconds, or times of a zone that this machine does not know."""

    kind: str
    """Type of the column, as Arrow names it."""
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


class Limit(NamedTuple):
    """How much a file may unpack to: `least`, and if that is more, `ratio` times its bytes."""

    least: int
    ratio: int
    of: Bilingual
    """What is counted."""

    def most(self, size: int) -> int:
        """Of a file of so many bytes."""
        return max(self.least, self.ratio * size)


BYTES: Final = Limit(2**28, PACKED_RATIO, Bilingual("", "字节"))
VALUES: Final = Limit(2**24, 16, Bilingual(" values of a column", "个列值"))
"""Of one column, with those in lists, and nulls."""


def parquet_rows(path: Path, report_bytes: ReportBytes | None = None) -> Iterator[tuple[str, object]]:
    """The (`file:row`, dict or BadRowError) of each row of a Parquet file; rows count from 1."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise _missing(path, "Parquet") from error
    try:
        file = ParquetFile(path, pre_buffer=False, buffer_size=2**16)
        names, metadata = list(file.schema_arrow.names), file.metadata
        total = max(1, metadata.num_rows)
        parts = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        pages = read_pages(path, (part.column(index) for part in parts for index in range(part.num_columns)))
        columns = [file.schema.column(index) for index in range(len(file.schema))]
        row_bytes = pages.row_bytes + sum(column.length for column in columns)
        size = path.stat().st_size
        # a row may have all texts of a list: they stay places in a dictionary, which takes longer to read
        if lists := [one.path for one in columns if one.max_repetition_level and pages.column_bytes.get(one.path, 0) > BYTES.most(size)]:
            file = ParquetFile(path, pre_buffer=False, buffer_size=2**16, read_dictionary=lists)
    except Exception as error:
        raise _broken(path, "Parquet", error) from error
    Header.from_cells(names, str(path))
    _refuse_bomb(path, size, pages.unpacked_bytes)
    _refuse_bomb(path, size, pages.values, VALUES)
    batch_rows = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, row_bytes)))

    def report(rows: int) -> None:
        if report_bytes is not None:
            report_bytes(size * rows // total)

    with file:
        for number, (row, read) in enumerate(_rows(file.iter_batches(batch_size=batch_rows)), start=1):
            yield f"{path}:{number}", row
            if read:
                report(read)


def arrow_rows(path: Path, report_bytes: ReportBytes | None = None) -> Iterator[tuple[str, object]]:
    """The (`file:row`, dict or BadRowError) of each row of an Arrow file or stream; rows count from 1."""
    try:
        import pyarrow
    except ImportError as error:
        raise _missing(path, "Arrow") from error
    with ExitStack() as stack:
        try:
            source = stack.enter_context(pyarrow.OSFile(str(path)))
            batches, names, unpacked = _open_arrow(source)
        except Exception as error:
            raise _broken(path, "Arrow", error) from error
        Header.from_cells(names, str(path))
        _refuse_bomb(path, path.stat().st_size, unpacked)
        reported = 0
        for number, (row, read) in enumerate(_rows(batches), start=1):
            yield f"{path}:{number}", row
            if read and report_bytes is not None:
                position = source.tell()
                report_bytes(max(0, position - reported))
                reported = max(position, reported)


def _refuse_bomb(path: Path, size: int, unpacked: int, limit: Limit = BYTES) -> None:
    """Raise UserError for a file that unpacks to far more than it holds."""
    if unpacked > limit.most(size):
        raise UserError(
            Bilingual(
                f"{path} has {size:,} bytes and would unpack to {unpacked:,}{limit.of.english}, which no file of rows does. "
                "Download it again.",
                f"{path}：文件只有 {size:,} 字节，解压后却有 {unpacked:,} {limit.of.chinese}：请重新下载。",
            )
        )


def _open_arrow(source: "NativeFile") -> "tuple[Iterator[RecordBatch], list[str], int]":
    """The batches of an Arrow file or stream, the names of its columns, and to how many bytes what is compressed of it unpacks."""
    from pyarrow import ipc

    is_file = source.read(len(ARROW_FILE)) == ARROW_FILE
    source.seek(0)
    most = ipc.open_file(source).num_record_batches if is_file else sys.maxsize
    start = FILE_HEAD if is_file else 0
    source.seek(start)
    unpacked = unpacked_bytes(source, most)
    source.seek(start)
    stream: RecordBatchReader = ipc.open_stream(source)
    return islice(stream, most), list(stream.schema.names), unpacked


def _rows(batches: "Iterator[RecordBatch]") -> Iterator[tuple[object, int]]:
    """(row, rows of the batch that ends with it, else 0) pairs; ends with a BadRowError at what cannot be read."""
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            number = 0
            for part, size in small_batches(batch):
                for row in _python_rows(part) if size <= ROW_BYTES else [None]:
                    number += 1
                    long = row is None or (size > MAX_ROW_CHARACTERS and any(map(_is_long, row.values())))
                    yield too_long_error() if long else row, batch.num_rows if number == batch.num_rows else 0
        except Exception as error:
            reason = first_line(error)
            broken = Bilingual(
                f"the file is broken from about here on: {reason}. Download it again.", f"文件大约从此处起已损坏（{reason}）：请重新下载。"
            )
            yield BadRowError(broken), 0
            return


def _python_rows(part: "RecordBatch") -> list[dict[str, object]]:
    """The rows of a batch; a column with values that Python does not have is one of `StoredValue`, since others may be all that is read."""
    try:
        rows: list[dict[str, object]] = part.to_pylist()
    except Exception:  # the classes of values raise what they like
        columns = {name: _python_values(column) for name, column in zip(part.schema.names, part.columns, strict=True)}
        return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    return rows


def _python_values(column: "Array") -> list[object]:
    try:
        values: list[object] = column.to_pylist()
    except Exception as error:
        return [StoredValue(str(column.type), first_line(error))] * len(column)
    return values


def _is_long(cell: object) -> bool:
    return isinstance(cell, str) and len(cell) > MAX_ROW_CHARACTERS


def _missing(path: Path, name: str) -> UserError:
    return UserError(
        Bilingual(
            f"{path}: pyarrow, which reads {name}, is not installed. Run `pip install 'imprint[tables]'`.",
            f"{path}：未安装读取 {name} 的 pyarrow：请运行 pip install 'imprint[tables]'。",
        )
    )


def _broken(path: Path, name: str, error: Exception) -> UserError:
    return UserError(
        Bilingual(
            f"{path} is a broken {name} file: {first_line(error)}. Download it again.",
            f"{path}：{name} 文件已损坏：请重新下载。",
        )
    )
