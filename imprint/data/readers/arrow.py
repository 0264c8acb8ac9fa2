"""Rows of Parquet and of Arrow, which `save_to_disk` of Hugging Face's datasets writes; read with pyarrow if installed."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imprint.data.readers.bad_rows import BadRowError, first_line
from imprint.data.readers.encodings import MAX_ROW_CHARACTERS, ReportBytes, too_long_error
from imprint.data.readers.tables import Header
from imprint.messages import Bilingual, UserError

if TYPE_CHECKING:
    from pyarrow import NativeFile, RecordBatch, RecordBatchReader

BATCH_ROWS: Final = 1000
BATCH_BYTES: Final = 2**26
"""Bytes of a batch of which all rows are made at once; a larger one is divided."""
BOMB_BYTES: Final = 2**28
"""Bytes of unpacked content from which it may not be BOMB_RATIO times those of the file."""
BOMB_RATIO: Final = 200
ARROW_FILE: Final = b"ARROW1"
"""Start of an Arrow file; one without it is a stream."""


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
        unpacked = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    except Exception as error:
        raise _broken(path, "Parquet", error) from error
    Header.from_cells(names, str(path))
    size = path.stat().st_size
    if unpacked > BOMB_BYTES and unpacked > BOMB_RATIO * size:
        raise UserError(
            Bilingual(
                f"{path} has {size:,} bytes and would unpack to {unpacked:,}, which no file of rows does. Download it again.",
                f"{path}：文件只有 {size:,} 字节，解压后却有 {unpacked:,} 字节：请重新下载。",
            )
        )

    def report(rows: int) -> None:
        if report_bytes is not None:
            report_bytes(size * rows // total)

    with file:
        for number, (row, read) in enumerate(_rows(file.iter_batches(batch_size=BATCH_ROWS)), start=1):
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
            batches, names = _open_arrow(source)
        except Exception as error:
            raise _broken(path, "Arrow", error) from error
        Header.from_cells(names, str(path))
        reported = 0
        for number, (row, read) in enumerate(_rows(batches), start=1):
            yield f"{path}:{number}", row
            if read and report_bytes is not None:
                position = source.tell()
                report_bytes(max(0, position - reported))
                reported = max(position, reported)


def _open_arrow(source: "NativeFile") -> "tuple[Iterator[RecordBatch], list[str]]":
    """The batches of an Arrow file or stream, and the names of its columns."""
    from pyarrow import ipc

    is_file = source.read(len(ARROW_FILE)) == ARROW_FILE
    source.seek(0)
    if not is_file:
        stream: RecordBatchReader = ipc.open_stream(source)
        return iter(stream), list(stream.schema.names)
    file = ipc.open_file(source)
    return (file.get_batch(index) for index in range(file.num_record_batches)), list(file.schema.names)


def _rows(batches: "Iterator[RecordBatch]") -> Iterator[tuple[object, int]]:
    """(row, rows of the batch that ends with it, else 0) pairs; ends with a BadRowError at what cannot be read."""
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            size = batch.num_rows if batch.nbytes <= BATCH_BYTES else max(1, batch.num_rows * BATCH_BYTES // batch.nbytes)
            for start in range(0, batch.num_rows, max(1, size)):
                rows = batch.slice(start, size).to_pylist()
                for index, row in enumerate(rows, start=start + 1):
                    long = batch.nbytes > MAX_ROW_CHARACTERS and any(
                        isinstance(cell, str) and len(cell) > MAX_ROW_CHARACTERS for cell in row.values()
                    )
                    yield too_long_error() if long else row, batch.num_rows if index == batch.num_rows else 0
        except Exception as error:
            reason = first_line(error)
            broken = Bilingual(
                f"the file is broken from about here on: {reason}. Download it again.", f"文件大约从此处起已损坏（{reason}）：请重新下载。"
            )
            yield BadRowError(broken), 0
            return


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
