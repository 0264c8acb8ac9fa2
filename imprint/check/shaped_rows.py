"""The rows of a source, each with the shape of its file, under a progress bar."""

import time
from collections.abc import Iterator

from imprint.check.repair import parse_broken_json
from imprint.data.readers.bad_rows import BadRowError
from imprint.data.readers.rows import file_of, read_rows, source_bytes
from imprint.data.shapes import Columns, RowShape, detect_shape
from imprint.messages import Bilingual
from imprint.progress import Progress

CHECKING = Bilingual("checking", "检查")


def rows_with_shapes(source: str, columns: Columns, progress: Progress | None = None) -> Iterator[tuple[str, object, RowShape]]:
    """The (location, row, shape) of each row; the first object of a file or a sheet, also a repaired one, determines its shape.

    Raises UserError for what cannot be read, also after some rows.
    """
    shapes: dict[str, RowShape] = {}
    default = detect_shape({}, columns)
    began, rows, bytes_read = time.monotonic(), 0, 0

    def report_bytes(count: int) -> None:
        nonlocal bytes_read
        if progress is not None:
            before, bytes_read = _kilobytes(bytes_read), bytes_read + count
            rate = rows / max(time.monotonic() - began, 1e-9)
            progress.advance(_kilobytes(bytes_read) - before, {"rows": f"{rows:,}", "rows/s": f"{rate:,.0f}"})

    for location, row in read_rows(source, report_bytes=report_bytes):
        rows += 1
        file = file_of(location)
        first = parse_broken_json(row.text, set()) if file not in shapes and isinstance(row, BadRowError) else row
        if file not in shapes and isinstance(first, dict):
            shapes[file] = detect_shape(first, columns)
        yield location, row, shapes.get(file, default)
    report_bytes(0)


def read_progress(source: str, title: Bilingual) -> Progress:
    """A progress bar over the kilobytes of a source."""
    return Progress(title, _kilobytes(source_bytes(source)), "kB", subject=source)


def _kilobytes(count: int) -> int:
    """Bytes in kilobytes, rounded up."""
    return -(-count // 1000)
