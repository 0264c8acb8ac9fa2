"""The rows that a run learned from and held out, found by their content in the whole training file, whatever is drawn from it now."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from imprint.data.dataset import columns_of
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
    """The samples that the run learned from, in the order of the file."""
    held_out: list[Sample]
    """The samples of the rows that it held out, in the order of the record."""
    others: int
    """Number of all other samples."""


def draws_rows(section: DataSection) -> bool:
    """Whether a run takes only some rows of its training file; if the file changes, these are other ones."""
    return section.train_rows is not None or parse_source(section.train).count is not None


def find_recorded(section: DataSection, learned: LearnedRows, held_out: HeldOutRecord | None, *, tools: bool) -> RecordedRows:
    """Search all rows of the training file, in memory that depends only on those that are found.

    Rows that are bad now are passed over: no run has learned them as they are. `tools`: whether the template supports tools. Raises
    UserError for a file that cannot be read.
    """
    found = list[list[Sample]]()
    wanted = Counter(held_out.digests.split() if held_out is not None else ())
    count = 0

    def rest() -> Iterator[Sample]:
        nonlocal count
        for row in _rows(section, tools=tools):
            if wanted.total() and wanted[digest := row_digest(row)] > 0:
                wanted[digest] -= 1
                found.append(row)
            else:
                count += len(row)
                yield from row

    selected = learned.select(rest())
    places = held_out.places(found) if held_out is not None else []
    return RecordedRows(selected, [sample for place in places for sample in found[place]], count - len(selected))


def _rows(section: DataSection, *, tools: bool) -> Iterator[list[Sample]]:
    """The samples of each good row of the whole training file, with its placeholders filled."""
    for _location, row in iterate_samples(parse_source(section.train).path, columns_of(section), tools=tools):
        if isinstance(row, BadRowError):
            continue
        try:
            samples = fill_placeholders(row, section.fill) if section.fill else row
        except UserError:
            continue
        yield from rows_of(samples)
