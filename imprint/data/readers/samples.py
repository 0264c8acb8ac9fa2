"""Samples from a file of any format, or a folder of them; every bad row is named, none is dropped."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from imprint.data.readers.bad_rows import BadRowError, BadRows
from imprint.data.readers.rows import read_rows
from imprint.data.sample import Sample
from imprint.data.shapes import Columns, RowShape, detect_shape, samples_from_row
from imprint.errors import UserError
from imprint.messages import Bilingual


def read_samples(
    path: Path | str,
    *,
    prompt_column: str,
    response_column: str,
    history_column: str | None = None,
    limit: int | None = None,
    tools: bool = False,
) -> list[Sample]:
    """Read the rows of a file, of all files of a folder, or of `path#500` (500 rows drawn at random), in whatever format and encoding.

    `limit` reads and checks only the first rows; `tools`: see `samples_from_row`. Blank lines are no rows.

    Raises UserError for a file that cannot be read or has no rows, and one UserError for all bad rows together, each with `file:line`, what
    was found and what is allowed.
    """
    columns = Columns(prompt_column, response_column, history_column)
    remedy = Bilingual("Fix {}; nothing was read.", "请修正这些数据；没有读入任何内容。")
    samples = collect_samples(islice(iterate_samples(path, columns, tools=tools), limit), path, remedy)
    if not samples:
        example = f'{{"{prompt_column}": "...", "{response_column}": "..."}}'
        raise UserError(f"{path} holds no rows. It needs at least one, such as {example}.")
    return samples


def collect_samples(rows: Iterable[tuple[str, list[Sample] | BadRowError]], source: Path | str, remedy: Bilingual) -> list[Sample]:
    """The samples of all rows; one UserError for all bad ones, whose `remedy` is that of `BadRows.raise_if_any`."""
    samples: list[Sample] = []
    problems = BadRows(source)
    for location, made in rows:
        if isinstance(made, BadRowError):
            problems.add(location, made)
        else:
            problems.good += 1
            samples += made
    problems.raise_if_any(remedy)
    return samples


def iterate_samples(source: Path | str, columns: Columns, *, tools: bool = False) -> Iterator[tuple[str, list[Sample] | BadRowError]]:
    """The (place, samples) of each row, or what is wrong with it, in bounded memory; the first good row of each file decides its shape."""
    shape: RowShape | None = None
    last = ""
    for location, row in read_rows(source):
        if (file := file_of(location)) != last:
            last, shape = file, None
        if shape is None and isinstance(row, dict):
            shape = detect_shape(row, columns)
        try:
            made: list[Sample] | BadRowError = samples_from_row(row, shape or detect_shape({}, columns), location, tools=tools)
        except BadRowError as problem:
            made = problem
        yield location, made


def file_of(location: str) -> str:
    """The file of a place, or the sheet of a workbook: what has one shape."""
    return location.rpartition(":")[0]
