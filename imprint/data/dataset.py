"""The data of a run: which files, which columns, how long, and the encoded rows that come of it."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from imprint.data.batches import longest_first_batches
from imprint.data.encode import EncodedRow, encode_sample
from imprint.data.general_rows import general_per_epoch, load_general_rows
from imprint.data.original import encode_sample_original
from imprint.data.placeholders import fill_placeholders, refuse_unused_fill, unfilled_notes
from imprint.data.readers.rows import describe_source
from imprint.data.readers.samples import read_samples
from imprint.data.sample import Sample
from imprint.data.section import DataSection, MixSection
from imprint.data.shapes import Columns
from imprint.data.token_file import row_lengths
from imprint.errors import UserError
from imprint.messages import Bilingual
from imprint.progress import Progress
from imprint.templates import Template

PROGRESS_FROM_ROWS: Final = 10_000
"""So many rows take some seconds to encode."""


@dataclass(frozen=True)
class TruncationReport:
    """How many rows lost something to the length limits."""

    rows: int
    """How many rows there are."""
    cut: int
    """How many of them lost anything."""
    dropped_turns: int
    """How many lost turns of their history."""
    cut_prompts: int
    """How many lost a part of the question (in the original's truncation: of the whole prompt)."""
    cut_answers: int
    """How many lost the end of the answer."""

    @classmethod
    def from_rows(cls, rows: Sequence[EncodedRow]) -> "TruncationReport":
        """Count over encoded rows."""
        return cls(
            rows=len(rows),
            cut=sum(row.cut for row in rows),
            dropped_turns=sum(row.dropped_turns > 0 for row in rows),
            cut_prompts=sum(row.cut_prompt_tokens > 0 for row in rows),
            cut_answers=sum(row.cut_answer_tokens > 0 for row in rows),
        )

    def summary(self) -> str:
        """The report for a person: `12 of 500 rows were cut (2.4 %): 10 lost the end of the answer, 2 lost old turns.`."""
        if not self.cut:
            return f"none of {self.rows} rows was cut."
        losses = [
            (self.cut_answers, "the end of the answer"),
            (self.cut_prompts, "a part of the prompt"),
            (self.dropped_turns, "old turns"),
        ]
        listed = ", ".join(f"{count} lost {what}" for count, what in losses if count)
        return f"{self.cut} of {self.rows} rows were cut ({100 * self.cut / self.rows:.1f} %): {listed}."


@dataclass(frozen=True)
class DataSplits:
    """Rows to learn from and rows to measure on."""

    train: Sequence[EncodedRow]
    """Rows to learn from, in the order of the file."""
    dev: Sequence[EncodedRow]
    """Rows for the evaluation loss, never learned from; empty where the recipe wants none."""
    dev_samples: list[Sample]
    """The rows of `dev` as text, for the prompts that are answered during the run."""
    train_report: TruncationReport
    """What the length limits cost in `train`."""
    locations: Sequence[str] = ()
    """Where each row of `train` stands, `file:line`; empty where nobody knows."""
    sources: tuple[str, ...] = ()
    """What was read, a sentence for each of `train`, `dev` and the general rows: format, encoding, columns."""
    general: list[EncodedRow] = field(default_factory=list)
    """Rows that are learned beside `train` and are nobody's own."""
    general_per_epoch: int = 0
    """How many of them an epoch takes."""

    def row(self, number: int) -> EncodedRow:
        """A row to learn from: the general ones are numbered behind those of `train`."""
        own = len(self.train)
        return self.train[number] if number < own else self.general[number - own]

    def location(self, number: int) -> str:
        """Where that row stands, for a person."""
        own = len(self.train)
        if number >= own:
            return f"general row {number - own + 1}"
        return self.locations[number] if self.locations else f"row {number}"

    def lengths(self) -> list[int]:
        """Tokens of every row to learn from, the general ones behind the others."""
        return [*row_lengths(self.train), *row_lengths(self.general)]

    def longest_rows(self, count: int) -> list[EncodedRow]:
        """So many of the longest rows to learn from."""
        return [self.row(number) for number in longest_first_batches(self.lengths(), count)[0]]


def load_splits(section: DataSection, template: Template, base: Path | None = None, *, quiet: bool = False) -> DataSplits:
    """Read, split and encode the data of a run; the same section gives the same rows. `base` is the folder of the model.

    Many rows are told as they are encoded, unless that is to be `quiet`.

    Raises UserError for files that cannot be read, for bad rows, and where too few rows are left to hold some out.
    """
    train_samples, dev_samples = load_samples(section, tools=template.supports_tools)
    with Progress("encoding rows", len(train_samples), "row", quiet=quiet or len(train_samples) < PROGRESS_FROM_ROWS) as progress:
        train = encode_samples(section, template, progress.track(train_samples))
    dev = encode_samples(section, template, dev_samples)
    columns = Columns(section.prompt_column, section.response_column, section.history_column)
    sources = tuple(describe_source(path, columns) for path in (section.train, section.dev) if path is not None)
    locations = tuple(sample.location for sample in train_samples)
    notes = [] if section.fill else unfilled_notes(train_samples, section.train)
    split = DataSplits(train, dev, dev_samples, TruncationReport.from_rows(train), locations, (*sources, *notes))
    return split if section.mix_general is None else _with_general_rows(split, section, section.mix_general, template, base or Path())


def _with_general_rows(split: DataSplits, section: DataSection, mix: MixSection, template: Template, base: Path) -> DataSplits:
    """The split with its general rows; those that the length limits would cut are left out: nobody shall learn to stop half-way."""
    found = load_general_rows(mix, base, tools=template.supports_tools)
    encoded = encode_samples(section, template, found.samples)
    whole = [row for row in encoded if not row.cut]
    if not whole:
        raise UserError(
            Bilingual(
                f"data.mix_general.rows: all {len(encoded)} rows of {found.source} are longer than data.max_source_length or "
                "data.max_target_length. Raise them, or name shorter rows.",
                "通用数据全部超长：请调大长度上限，或换更短的数据。",
            )
        )
    count = general_per_epoch(len(split.train), mix.share)
    long = f"; {len(encoded) - len(whole)} are too long and left out" if len(whole) < len(encoded) else ""
    each = f"{count} of them join" if count <= len(whole) else f"each joins {count / len(whole):.1f} times, {count} in all,"
    turns = ", other ones each time," if count < len(whole) else ""
    note = Bilingual(
        f"{found.source}: {len(whole)} general rows{long}; {each} the {len(split.train)} own rows in each epoch{turns} and none is counted "
        "as yours",
        f"每轮混入 {count} 条通用数据，不计入你的数据",
    )
    return replace(split, general=whole, general_per_epoch=count, sources=(*split.sources, note.line))


def load_samples(section: DataSection, *, tools: bool = False) -> tuple[list[Sample], list[Sample]]:
    """The rows of a run as text: those it learns from, and those held out."""
    samples = _read_samples(section, section.train, section.train_rows, all_used=section.train_rows is None, tools=tools)
    if section.dev is None:
        return _hold_out(section, samples)
    return samples, _read_samples(section, section.dev, section.dev_rows, tools=tools)


def load_held_out(section: DataSection, *, tools: bool = False) -> list[Sample]:
    """The held-out rows of a run alone: where they have a file of their own, the one it learned from need not be there any more."""
    if section.dev is None:
        return load_samples(section, tools=tools)[1]
    return _read_samples(section, section.dev, section.dev_rows, tools=tools)


def encode_samples(section: DataSection, template: Template, samples: Iterable[Sample]) -> list[EncodedRow]:
    """Encode samples in a model's template, with the truncation and the lengths of a section; UserError names the row that cannot be."""
    encode = encode_sample_original if section.truncation == "original" else encode_sample
    source, target, before = section.max_source_length, section.max_target_length, section.source_prefix
    rows = []
    for sample in samples:
        try:
            rows.append(encode(template, sample, max_source_length=source, max_target_length=target, source_prefix=before))
        except UserError as error:
            raise UserError(f"{sample.location}: {error}") from error
    return rows


def _read_samples(section: DataSection, path: Path, limit: int | None, *, all_used: bool = False, tools: bool = False) -> list[Sample]:
    """Rows with their placeholders filled; with `all_used` each text of `fill_placeholders` must have a place in them."""
    samples = read_samples(
        path,
        prompt_column=section.prompt_column,
        response_column=section.response_column,
        history_column=section.history_column,
        limit=limit,
        tools=tools,
    )
    if all_used:
        refuse_unused_fill(samples, section.fill, path)
    return fill_placeholders(samples, section.fill) if section.fill else samples


def _hold_out(section: DataSection, samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Take rows out by chance: the share that is asked for, at least one and at most `dev_rows`.

    A conversation goes as a whole: what is learned of one of its answers tells the others.
    """
    if section.dev_share == 0:
        return samples, []
    rows = _rows(samples)
    if len(rows) < 2:
        raise UserError(
            f"{section.train} has one row, so none can be held out to measure on. "
            "Add rows, name a file in data.dev, or set data.dev_share=0."
        )
    count = max(1, round(section.dev_share * len(rows)))
    if section.dev_rows is not None:
        count = min(count, section.dev_rows)
    held_out = set(random.Random(section.dev_seed).sample(range(len(rows)), count))
    kept = [sample for index, row in enumerate(rows) for sample in row if index not in held_out]
    return kept, [sample for index in sorted(held_out) for sample in rows[index]]


def _rows(samples: Sequence[Sample]) -> list[list[Sample]]:
    """The samples of each row: the answers of a conversation follow one another, each with a longer history."""
    rows: list[list[Sample]] = []
    for sample in samples:
        before = rows[-1][-1] if rows else None
        if before is None or before.location != sample.location or len(before.history or ()) >= len(sample.history or ()):
            rows.append([])
        rows[-1].append(sample)
    return rows
