"""The data of a run: read, split, and encoded under the length limits."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from imprint.data.batches import longest_first_batches
from imprint.data.encode import EncodedRow, encode_sample
from imprint.data.general_rows import complete_rows, general_per_epoch, load_general_rows, with_chat_prompts, with_room_for_answers
from imprint.data.held_out import HeldOutRecord, rows_of
from imprint.data.learned_rows import LearnedRows
from imprint.data.limits import UNLIMITED, LengthLimits, choose_limits, chosen_note, with_given
from imprint.data.original import encode_sample_original
from imprint.data.placeholders import fill_placeholders, refuse_unused_fill, unfilled_notes
from imprint.data.readers.bad_rows import MissingColumnsError
from imprint.data.readers.rows import describe_source
from imprint.data.readers.samples import read_samples
from imprint.data.sample import Sample
from imprint.data.section import DataSection, MixSection
from imprint.data.shapes import Columns
from imprint.data.token_file import row_lengths
from imprint.data.truncation import TRAINING_ROWS, TruncationReport
from imprint.messages import Bilingual, UserError, join_lines
from imprint.progress import Progress
from imprint.templates import Template

PROGRESS_FROM_ROWS: Final = 10_000
"""Number of rows from which encoding shows a progress bar."""


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
    dev_report: TruncationReport = field(default_factory=TruncationReport)
    """Truncation in `dev`."""
    limits: LengthLimits | None = None
    """The limits under which the rows are encoded; None for raw text."""
    locations: Sequence[str] = ()
    """Location of each row of `train`, `file:line`; empty if unknown."""
    sources: tuple[str, ...] = ()
    """Descriptions of the sources: format, encoding, columns, notes."""
    general: list[EncodedRow] = field(default_factory=list)
    """General rows, mixed into the training."""
    general_per_epoch: int = 0
    """Number of general rows per epoch."""
    learned: LearnedRows | None = None
    """Which samples the training rows are; None for raw text."""

    def row(self, index: int) -> EncodedRow:
        """A training row; the indices of general rows follow those of `train`."""
        own = len(self.train)
        return self.train[index] if index < own else self.general[index - own]

    def location(self, index: int) -> Bilingual:
        """The location of a training row, to print."""
        own = len(self.train)
        if index >= own:
            return Bilingual(f"general row {index - own + 1}", f"第 {index - own + 1} 条通用数据")
        location = self.locations[index] if self.locations else None
        return Bilingual(location or f"row {index}", location or f"第 {index} 行")

    @property
    def several_answers(self) -> bool:
        """Whether rows of the files hold several answers, each an encoded row."""
        return self.train_report.file_rows is not None or self.dev_report.file_rows is not None

    def counts(self) -> Bilingual:
        """Numbers of training and held-out rows as text; of answers too, where rows of the file hold several."""
        train, dev = self.train_report, self.dev_report
        if not self.several_answers:
            return Bilingual(f"{train.rows} rows to learn from, {dev.rows} held out", f"训练数据 {train.rows} 行，留出 {dev.rows} 行")
        learned, held_out = train.count(TRAINING_ROWS), dev.count()
        return Bilingual(f"{learned.english}, {held_out.english} held out", f"{learned.chinese}，留出 {held_out.chinese}")

    def lengths(self) -> list[int]:
        """Lengths in tokens of all training rows, general rows last."""
        return [*row_lengths(self.train), *row_lengths(self.general)]

    def longest_rows(self, count: int) -> list[EncodedRow]:
        """The `count` longest training rows."""
        return [self.row(index) for index in longest_first_batches(self.lengths(), count)[0]]


def load_splits(
    section: DataSection,
    template: Template,
    base: Path | None = None,
    *,
    quiet: bool = False,
    max_length: int = UNLIMITED,
    agree: Callable[[LengthLimits], LengthLimits] = lambda limits: limits,
) -> DataSplits:
    """Read, split and encode the data of a run; the same section gives the same rows.

    `base`: folder of the base model. `quiet`: no progress bar. `max_length`: length of the longest sequence that
    the base was trained on, for limits that are null.
    `agree`: what all processes make of the limits that one has chosen.

    Raises UserError for files that cannot be read, for bad rows, and for too few rows to hold some out.
    """
    mix = section.mix_general
    train_samples, dev_samples = load_samples(section, tools=template.supports_tools)
    general = None if mix is None else load_general_rows(mix, base or Path(), tools=template.supports_tools)
    given = with_given(section, LengthLimits(UNLIMITED, UNLIMITED))
    readable = with_given(section, LengthLimits(max_length, UNLIMITED))  # the chosen limits are not larger
    with Progress(
        Bilingual("encoding rows", "编码数据"), len(train_samples), "row", quiet=quiet or len(train_samples) < PROGRESS_FROM_ROWS
    ) as progress:
        train = encode_samples(section, template, progress.track(train_samples), readable)
    dev = encode_samples(section, template, dev_samples, readable)
    general_rows = [] if general is None else encode_samples(with_chat_prompts(section), template, general.samples, given)
    limits, notes = given, list[str]()
    if UNLIMITED in (given.prompt, given.answer):
        own = [[*train, *dev]] if section.dev is None else [train, dev]
        limits = agree(choose_limits(section, own, max_length, with_room_for_answers(mix, general_rows)))
        notes.append(chosen_note(section, limits).line)
        train = _shorten(train, train_samples, section, template, limits)
        dev = _shorten(dev, dev_samples, section, template, limits)
    sources = [describe_source(path, columns_of(section)).line for path in (section.train, section.dev) if path is not None]
    notes += [] if section.fill else unfilled_notes(train_samples, section.train)
    reports = (
        TruncationReport.from_rows(train, len(rows_of(train_samples))),
        TruncationReport.from_rows(dev, len(rows_of(dev_samples))),
    )
    locations = tuple(sample.location for sample in train_samples)
    learned = LearnedRows.of(train_samples)
    splits = DataSplits(train, dev, dev_samples, *reports, limits, locations, (*sources, *notes), learned=learned)
    return splits if mix is None or general is None else _with_general_rows(splits, mix, general.source, general_rows)


def columns_of(section: DataSection) -> Columns:
    """The columns that a section names."""
    return Columns(section.prompt_column, section.response_column, section.history_column, "data.")


def _with_general_rows(splits: DataSplits, mix: MixSection, source: str, rows: list[EncodedRow]) -> DataSplits:
    """The splits with general rows; those that would be truncated are left out, so that the model learns only complete answers."""
    limits = splits.limits
    assert limits is not None, "the rows are encoded"
    complete = complete_rows(mix, rows, limits)
    if not complete:
        raise UserError(
            Bilingual(
                f"data.mix_general.rows: all {len(rows)} rows of {source} are longer than data.max_source_length or "
                "data.max_target_length. Raise them, or give shorter rows.",
                f"data.mix_general.rows：{source} 的 {len(rows)} 行通用数据全部超长：请调大长度上限，或换更短的数据。",
            )
        )
    count = general_per_epoch(len(splits.train), mix.share)
    too_long = len(rows) - len(complete)
    left_out = Bilingual(f"; {too_long} are too long and left out", f"，{too_long} 条过长未用") if too_long else Bilingual("", "")
    share = f"{count} of them join" if count <= len(complete) else f"each joins {count / len(complete):.1f} times, {count} in all,"
    own = splits.train_report.count(Bilingual("own rows", "行你的数据")).english
    rotation = ", other ones each time," if count < len(complete) else ""
    note = Bilingual(
        f"{source}: {len(complete)} general rows{left_out.english}; {share} the {own} in each epoch{rotation} and none is counted as yours",
        f"每轮混入 {count} 条通用数据，不计入你的数据{left_out.chinese}",
    )
    return replace(splits, general=complete, general_per_epoch=count, sources=(*splits.sources, note.line))


def load_samples(section: DataSection, *, tools: bool = False, record: HeldOutRecord | None = None) -> tuple[list[Sample], list[Sample]]:
    """(training rows, held-out rows) of a run as text. `record`: which rows the run held out; those that are left in the file are taken."""
    samples = _read_samples(section, section.train, section.train_rows, all_used=section.train_rows is None, tools=tools)
    if section.dev is None:
        return _hold_out(section, samples, record)
    return samples, _read_dev(section, section.dev, tools=tools)


def load_held_out(section: DataSection, *, tools: bool = False) -> list[Sample]:
    """The held-out rows of a run; with a file of their own, the training file is not read."""
    if section.dev is None:
        return load_samples(section, tools=tools)[1]
    return _read_dev(section, section.dev, tools=tools)


def _read_dev(section: DataSection, path: Path, *, tools: bool) -> list[Sample]:
    """The rows of the held-out file. Raises UserError as `read_samples`; of a file with other columns it says how to do without it."""
    try:
        return _read_samples(section, path, section.dev_rows, tools=tools)
    except MissingColumnsError as error:
        way_out = Bilingual(
            "The held-out file (data.dev) needs the columns of data.train; data.dev=null holds out rows of data.train instead.",
            "留出文件（data.dev）须与 data.train 有相同的列；或用 data.dev=null，从 data.train 中留出几行。",
        )
        raise UserError(join_lines([error.message, way_out])) from error


def encode_samples(section: DataSection, template: Template, samples: Iterable[Sample], limits: LengthLimits) -> list[EncodedRow]:
    """Encode samples with a template and the truncation of a section. Raises UserError for a row that cannot be encoded."""
    encode = encode_sample_original if section.truncation == "original" else encode_sample
    prefix = section.source_prefix
    rows = []
    for sample in samples:
        try:
            rows.append(encode(template, sample, max_source_length=limits.prompt, max_target_length=limits.answer, source_prefix=prefix))
        except UserError as error:
            raise error.prefixed(f"{sample.location}: ") from error
    return rows


def _shorten(
    rows: list[EncodedRow], samples: Sequence[Sample], section: DataSection, template: Template, limits: LengthLimits
) -> list[EncodedRow]:
    """The rows under the limits that were chosen from them: the few longer ones are encoded again."""
    max_prompt = UNLIMITED if section.max_source_length else limits.prompt  # a given limit is obeyed already
    max_answer = UNLIMITED if section.max_target_length else limits.answer
    long = [index for index, row in enumerate(rows) if row.needed_prompt > max_prompt or row.needed_answer > max_answer]
    for index, row in zip(long, encode_samples(section, template, [samples[index] for index in long], limits), strict=True):
        rows[index] = row
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
        knob_prefix="data.",
    )
    if all_used:
        refuse_unused_fill(samples, section.fill, path)
    return fill_placeholders(samples, section.fill) if section.fill else samples


def _hold_out(section: DataSection, samples: list[Sample], record: HeldOutRecord | None) -> tuple[list[Sample], list[Sample]]:
    """Split off a random `dev_share` of the rows, at least one and at most `dev_rows`; returns (training, held-out) samples.

    All samples of a conversation stay together, because each contains the earlier answers. With the `record` of a run, its rows are split
    off wherever they stand now.
    """
    if section.dev_share == 0:
        return samples, []
    rows = rows_of(samples)
    held_out = [] if record is not None and len(rows) < 2 else held_out_indices(section, len(rows))
    if record is not None and not record.matches([rows[index] for index in held_out]):
        held_out = record.indices(rows)
    left_out = set(held_out)
    train = [sample for index, row in enumerate(rows) for sample in row if index not in left_out]
    return train, [sample for index in held_out for sample in rows[index]]


def held_out_indices(section: DataSection, count: int) -> list[int]:
    """The indices of the rows to hold out of `count`, in order. Raises UserError if there is only one row."""
    if count < 2:
        raise UserError(
            Bilingual(
                f"{section.train} has one row, so none can be held out for evaluation. Add rows, set data.dev to a file, or set "
                "data.dev_share=0.",
                f"{section.train}：只有一行数据，无法留出评估数据：请增加数据、用 data.dev 指定文件，或设 data.dev_share=0。",
            )
        )
    share = max(1, round(section.dev_share * count))
    share = share if section.dev_rows is None else min(share, section.dev_rows)
    return sorted(random.Random(section.dev_seed).sample(range(count), share))
