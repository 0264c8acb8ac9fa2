"""The data of a run: read, split, and encoded under the length limits."""

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
from imprint.messages import Bilingual, UserError
from imprint.progress import Progress
from imprint.templates import Template

PROGRESS_FROM_ROWS: Final = 10_000
"""Number of rows from which encoding shows a progress bar."""


@dataclass(frozen=True)
class TruncationReport:
    """Counts of the rows truncated by the length limits."""

    rows: int
    """Number of rows."""
    cut: int
    """Number of truncated rows."""
    dropped_turns: int
    """Number of rows without some of their history turns."""
    cut_prompts: int
    """Number of rows with a truncated question (with truncation=original: a truncated prompt)."""
    cut_answers: int
    """Number of rows with a truncated answer."""

    @classmethod
    def from_rows(cls, rows: Sequence[EncodedRow]) -> "TruncationReport":
        """Counts over encoded rows."""
        return cls(
            rows=len(rows),
            cut=sum(row.cut for row in rows),
            dropped_turns=sum(row.dropped_turns > 0 for row in rows),
            cut_prompts=sum(row.cut_prompt_tokens > 0 for row in rows),
            cut_answers=sum(row.cut_answer_tokens > 0 for row in rows),
        )

    def summary(self) -> str:
        """The report as text: `12 of 500 rows were cut (2.4 %): 10 lost the end of the answer, 2 lost old turns.`."""
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
    """The training rows and the held-out rows of a run."""

    train: Sequence[EncodedRow]
    """Training rows, in file order."""
    dev: Sequence[EncodedRow]
    """Held-out rows for the evaluation loss; may be empty."""
    dev_samples: list[Sample]
    """The rows of `dev` as text; their prompts are answered during the run."""
    train_report: TruncationReport
    """Truncation in `train`."""
    locations: Sequence[str] = ()
    """Location of each row of `train`, `file:line`; empty if unknown."""
    sources: tuple[str, ...] = ()
    """Descriptions of the sources: format, encoding, columns, notes."""
    general: list[EncodedRow] = field(default_factory=list)
    """General rows, mixed into the training."""
    general_per_epoch: int = 0
    """Number of general rows per epoch."""

    def row(self, index: int) -> EncodedRow:
        """A training row; the indices of general rows follow those of `train`."""
        own = len(self.train)
        return self.train[index] if index < own else self.general[index - own]

    def location(self, index: int) -> str:
        """The location of a training row, to print."""
        own = len(self.train)
        if index >= own:
            return f"general row {index - own + 1}"
        return self.locations[index] if self.locations else f"row {index}"

    def lengths(self) -> list[int]:
        """Lengths in tokens of all training rows, general rows last."""
        return [*row_lengths(self.train), *row_lengths(self.general)]

    def longest_rows(self, count: int) -> list[EncodedRow]:
        """The `count` longest training rows."""
        return [self.row(index) for index in longest_first_batches(self.lengths(), count)[0]]


def load_splits(section: DataSection, template: Template, base: Path | None = None, *, quiet: bool = False) -> DataSplits:
    """Read, split and encode the data of a run; the same section gives the same rows.

    `base`: folder of the base model. `quiet`: no progress bar.

    Raises UserError for files that cannot be read, for bad rows, and for too few rows to hold some out.
    """
    train_samples, dev_samples = load_samples(section, tools=template.supports_tools)
    with Progress("encoding rows", len(train_samples), "row", quiet=quiet or len(train_samples) < PROGRESS_FROM_ROWS) as progress:
        train = encode_samples(section, template, progress.track(train_samples))
    dev = encode_samples(section, template, dev_samples)
    columns = Columns(section.prompt_column, section.response_column, section.history_column)
    sources = tuple(describe_source(path, columns) for path in (section.train, section.dev) if path is not None)
    locations = tuple(sample.location for sample in train_samples)
    notes = [] if section.fill else unfilled_notes(train_samples, section.train)
    splits = DataSplits(train, dev, dev_samples, TruncationReport.from_rows(train), locations, (*sources, *notes))
    return splits if section.mix_general is None else _with_general_rows(splits, section, section.mix_general, template, base or Path())


def _with_general_rows(splits: DataSplits, section: DataSection, mix: MixSection, template: Template, base: Path) -> DataSplits:
    """The splits with general rows; those that would be truncated are left out, so that the model learns only complete answers."""
    general = load_general_rows(mix, base, tools=template.supports_tools)
    encoded = encode_samples(section, template, general.samples)
    complete = [row for row in encoded if not row.cut]
    if not complete:
        raise UserError(
            Bilingual(
                f"data.mix_general.rows: all {len(encoded)} rows of {general.source} are longer than data.max_source_length or "
                "data.max_target_length. Raise them, or give shorter rows.",
                "通用数据全部超长：请调大长度上限，或换更短的数据。",
            )
        )
    count = general_per_epoch(len(splits.train), mix.share)
    left_out = f"; {len(encoded) - len(complete)} are too long and left out" if len(complete) < len(encoded) else ""
    share = f"{count} of them join" if count <= len(complete) else f"each joins {count / len(complete):.1f} times, {count} in all,"
    rotation = ", other ones each time," if count < len(complete) else ""
    note = Bilingual(
        f"{general.source}: {len(complete)} general rows{left_out}; {share} the {len(splits.train)} own rows in each epoch{rotation} and "
        "none is counted as yours",
        f"每轮混入 {count} 条通用数据，不计入你的数据",
    )
    return replace(splits, general=complete, general_per_epoch=count, sources=(*splits.sources, note.line))


def load_samples(section: DataSection, *, tools: bool = False) -> tuple[list[Sample], list[Sample]]:
    """(training rows, held-out rows) of a run as text."""
    samples = _read_samples(section, section.train, section.train_rows, all_used=section.train_rows is None, tools=tools)
    if section.dev is None:
        return _hold_out(section, samples)
    return samples, _read_samples(section, section.dev, section.dev_rows, tools=tools)


def load_held_out(section: DataSection, *, tools: bool = False) -> list[Sample]:
    """The held-out rows of a run; with a file of their own, the training file is not read."""
    if section.dev is None:
        return load_samples(section, tools=tools)[1]
    return _read_samples(section, section.dev, section.dev_rows, tools=tools)


def encode_samples(section: DataSection, template: Template, samples: Iterable[Sample]) -> list[EncodedRow]:
    """Encode samples with a template, the truncation and the limits of a section. Raises UserError for a row that cannot be encoded."""
    encode = encode_sample_original if section.truncation == "original" else encode_sample
    source, target, prefix = section.max_source_length, section.max_target_length, section.source_prefix
    rows = []
    for sample in samples:
        try:
            rows.append(encode(template, sample, max_source_length=source, max_target_length=target, source_prefix=prefix))
        except UserError as error:
            raise error.prefixed(f"{sample.location}: ") from error
    return rows


def _read_samples(section: DataSection, path: Path, limit: int | None, *, all_used: bool = False, tools: bool = False) -> list[Sample]:
    """Rows with their placeholders filled. `all_used`: raise UserError for a text of `data.fill` that no row uses."""
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
    """Split off a random `dev_share` of the rows, at least one and at most `dev_rows`; returns (training, held-out) samples.

    All samples of a conversation stay together, because each contains the earlier answers.
    """
    if section.dev_share == 0:
        return samples, []
    rows = _rows(samples)
    if len(rows) < 2:
        raise UserError(
            Bilingual(
                f"{section.train} has one row, so none can be held out for evaluation. Add rows, set data.dev to a file, or set "
                "data.dev_share=0.",
                "只有一行数据，无法留出评估数据：请增加数据、用 data.dev 指定文件，或设 data.dev_share=0。",
            )
        )
    count = max(1, round(section.dev_share * len(rows)))
    if section.dev_rows is not None:
        count = min(count, section.dev_rows)
    held_out = set(random.Random(section.dev_seed).sample(range(len(rows)), count))
    train = [sample for index, row in enumerate(rows) for sample in row if index not in held_out]
    return train, [sample for index in sorted(held_out) for sample in rows[index]]


def _rows(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Samples grouped by row: those of a conversation are consecutive, each with a longer history."""
    rows: list[list[Sample]] = []
    for sample in samples:
        before = rows[-1][-1] if rows else None
        if before is None or before.location != sample.location or len(before.history or ()) >= len(sample.history or ()):
            rows.append([])
        rows[-1].append(sample)
    return rows
