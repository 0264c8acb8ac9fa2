"""Samples from files of any format; bad rows are errors, none is dropped."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from imprint.data.readers.bad_rows import BadRowError, BadRows
from imprint.data.readers.rows import file_of, read_rows
from imprint.data.sample import Sample
from imprint.data.shapes import Columns, RowShape, detect_shape, samples_from_row
from imprint.messages import Bilingual, UserError


def read_samples(
    path: Path | str,
    *,
    prompt_column: str,
    response_column: str,
    history_column: str | None = None,
    limit: int | None = None,
    tools: bool = False,
    knob_prefix: str = "",
) -> list[Sample]:
    """Read the rows of a file, of all files of a folder, or of `path#500` (500 rows sampled at random), in any known format and encoding.

    `limit` reads and checks only the first rows; `tools`: see `samples_from_row`. `knob_prefix` is typed before
    the names of the knobs. Blank lines are skipped.

    Raises UserError for a file that cannot be read or has no rows, and one UserError for all bad rows, each with `file:line`, the value
    and what is allowed.
    """
    columns = Columns(prompt_column, response_column, history_column, knob_prefix)
    remedy = Bilingual("Fix {}; nothing was read.", "请修正这些数据；没有读入任何内容。")
    samples = collect_samples(islice(iterate_samples(path, columns, tools=tools), limit), path, remedy)
    if not samples:
        example = f'{{"{prompt_column}": "...", "{response_column}": "..."}}'
        raise UserError(
            Bilingual(
                f"{path} holds no rows. It needs at least one, such as {example}.",
                f"{path}：文件中没有数据行：至少需要一行，例如 {example}。",
            )
        )
    return samples


def collect_samples(rows: Iterable[tuple[str, list[Sample] | BadRowError]], source: Path | str, remedy: Bilingual) -> list[Sample]:
    """The samples of all rows. Raises one UserError for all bad rows; `remedy`: see `BadRows.raise_if_any`."""
    samples: list[Sample] = []
    bad_rows = BadRows(source)
    for location, row_samples in rows:
        if isinstance(row_samples, BadRowError):
            bad_rows.add(location, row_samples)
            if bad_rows.enough:
                break
        else:
            bad_rows.good += 1
            samples += row_samples
    bad_rows.raise_if_any(remedy)
    return samples


def iterate_samples(source: Path | str, columns: Columns, *, tools: bool = False) -> Iterator[tuple[str, list[Sample] | BadRowError]]:
    """The (location, samples or error) of each row, in bounded memory; the first object of each file determines its shape."""
    shape: RowShape | None = None
    last_file = ""
    for location, row in read_rows(source):
        if (file := file_of(location)) != last_file:
            last_file, shape = file, None
        if shape is None and isinstance(row, dict):
            shape = detect_shape(row, columns)
        try:
            yield location, samples_from_row(row, shape or detect_shape({}, columns), location, tools=tools)
        except BadRowError as problem:
            yield location, problem
