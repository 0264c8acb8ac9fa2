"""The rows that a run learned from and held out, found by their content in the whole training file, whatever is drawn from it now."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from imprint.data.dataset import columns_of, held_out_indices
from imprint.data.held_out import HeldOutRecord, row_digest, rows_of
from imprint.data.learned_rows import LearnedRows
from imprint.data.placeholders import fill_placeholders
from imprint.data.readers.bad_rows import BadRowError
from imprint.data.readers.samples import iterate_samples
from imprint.data.readers.sources import parse_source
from imprint.data.sample import Sample
from imprint.data.section import DataSection
from imprint.messages import UserError


@dataclass(frozen=True)
class RecordedRows:
    """What a training file still holds of the rows that a run has recorded."""

    learned: list[Sample]
    """The samples that the run learned from, in the order of the file; last those of rows that it held out too."""
    held_out: list[Sample]
    """The samples of the rows that it held out, in the order of the record."""
    others: int
    """Number of all other samples."""


def draws_rows(section: DataSection) -> bool:
    """Whether a run takes only some rows of its training file; if the file changes, these are other ones."""
    return section.train_rows is not None or parse_source(section.train).count is not None


def find_unchanged(section: DataSection, learned: LearnedRows, held_out: HeldOutRecord | None, *, tools: bool) -> list[Sample] | None:
    """The samples that the run learned from, if just these are read from the training file now; else None.

    The memory depends only on their number. Arguments and errors as in `find_recorded`.
    """
    indices = set[int]()
    if section.dev is None and section.dev_share:
        count = held_out.rows if held_out is not None else sum(1 for _ in _rows_for_training(section, tools=tools))
        indices = set(held_out_indices(section, count)) if count > 1 else indices

    bad: list[None] = [None]

    def read() -> Iterator[Sample | None]:
        for index, row in enumerate(_rows_for_training(section, tools=tools)):
            if index not in indices:
                yield from row or bad

    return learned.exactly(read())


def find_held_out(section: DataSection, record: HeldOutRecord, *, tools: bool) -> tuple[list[Sample], int] | None:
    """The samples of the held-out rows of a file of which no rows are drawn, and the number of its rows; None if one of these is bad.

    The memory depends only on the number of held-out rows. Arguments and errors as in `find_recorded`.
    """
    indices = set(held_out_indices(section, record.rows)) if record.rows > 1 else set()
    drawn, count = list[list[Sample]](), 0
    for index, row in enumerate(_rows_for_training(section, tools=tools)):
        if not row:
            return None
        count += 1
        if index in indices:
            drawn.append(row)
    if count == record.rows and record.matches(drawn):
        return [sample for row in drawn for sample in row], count
    return find_recorded(section, LearnedRows(b""), record, tools=tools).held_out, count


def find_recorded(section: DataSection, learned: LearnedRows, held_out: HeldOutRecord | None, *, tools: bool) -> RecordedRows:
    """Search all rows of the training file, in memory that depends only on those that are found.

    A row that was held out and learned too, as copies of it may have been, is among both. Rows that are bad now are passed over: no run has
    learned them as they are. `tools`: whether the template supports tools. Raises UserError for a file that cannot be read.
    """
    found = list[list[Sample]]()
    wanted = Counter(held_out.digests.split() if held_out is not None else ())
    count, left = 0, wanted.total()

    def read() -> Iterator[Sample]:
        nonlocal count, left
        for row in filter(None, _rows(section, parse_source(section.train).path, tools=tools)):
            if left and wanted[digest := row_digest(row)] > 0:
                wanted[digest] -= 1
                left -= 1
                found.append(row)
            else:
                count += len(row)
                yield from row
        for row in found:  # after the others, of which each copy counts as learned first
            yield from row

    selected = learned.select(read())
    held_out_locations = {sample.location for row in found for sample in row}
    others = count - sum(sample.location not in held_out_locations for sample in selected)
    indices = held_out.indices(found) if held_out is not None else []
    return RecordedRows(selected, [sample for index in indices for sample in found[index]], others)


def _rows_for_training(section: DataSection, *, tools: bool) -> Iterator[list[Sample]]:
    """The samples of each row that is read for training now; none for a bad one."""
    return _rows(section, section.train, tools=tools, limit=section.train_rows)


def _rows(section: DataSection, source: Path, *, tools: bool, limit: int | None = None) -> Iterator[list[Sample]]:
    """The samples of each of the first `limit` rows of a source, with its placeholders filled; none for a bad one."""
    for _location, row in islice(iterate_samples(source, columns_of(section), tools=tools), limit):
        if isinstance(row, BadRowError):
            yield []
            continue
        try:
            samples = fill_placeholders(row, section.fill) if section.fill else row
        except UserError:
            yield []
            continue
        yield from rows_of(samples)
