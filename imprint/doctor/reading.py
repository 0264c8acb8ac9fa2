"""The rows of a source with the shape of the file that each is in, under a progress bar."""

import time
from collections.abc import Iterator

from imprint.data.rows import read_rows, source_bytes
from imprint.data.shapes import Columns, Shape, shape_of
from imprint.progress import Progress


def shaped_rows(source: str, columns: Columns, progress: Progress | None = None) -> Iterator[tuple[str, object, Shape]]:
    """The (place, row, shape) of each row; the first object of a file, or of a sheet, decides on its shape.

    Raises UserError for what cannot be read, also after some rows.
    """
    shapes: dict[str, Shape] = {}
    nothing = shape_of({}, columns)
    began, rows, bytes_read = time.monotonic(), 0, 0

    def consumed(count: int) -> None:
        nonlocal bytes_read
        if progress is not None:
            before, bytes_read = bytes_read // 1000, bytes_read + count
            rate = rows / max(time.monotonic() - began, 1e-9)
            progress.advance(bytes_read // 1000 - before, {"rows": f"{rows:,}", "rows/s": f"{rate:,.0f}"})

    for place, row in read_rows(source, consumed=consumed):
        rows += 1
        file = place.rpartition(":")[0]
        if file not in shapes and isinstance(row, dict):
            shapes[file] = shape_of(row, columns)
        yield place, row, shapes.get(file, nothing)
    if progress is not None:
        progress.advance(0)


def bar_for(source: str, words: str) -> Progress:
    """A progress bar over the bytes of a source, in kilobytes."""
    return Progress(f"{words} {source}", max(source_bytes(source) // 1000, 1), "kB")
