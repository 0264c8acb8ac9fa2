"""The held-out rows of a run, which are scored where no file is given, and the check that a given file holds no training rows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from imprint.data.dataset import load_held_out, load_samples
from imprint.data.held_out import HeldOutRecord, rows_of
from imprint.data.learned_rows import LearnedRows
from imprint.data.recorded_rows import draws_rows, find_held_out, find_recorded
from imprint.data.sample import Sample
from imprint.data.section import DataSection
from imprint.loading.run import RunConfig
from imprint.loading.source import ModelSource
from imprint.messages import Bilingual, UserError, join_lines
from imprint.runs import RunFolder
from imprint.terminal import say

HELD_OUT: Final = "held-out"
"""Name of the folder of answers to the held-out rows."""
WARNED_SHARE: Final = 0.1
"""Share of rows from which a file is said to hold training rows; a few short ones may be equal by chance."""
RAW_TEXT: Final = Bilingual(
    "was trained on raw text, which has no questions. Give rows with --data; `imprint perplexity` measures texts.",
    "该结果是在纯文本上训练的，没有问题可问：请用 --data 给出问答；文本用 imprint perplexity 评估。",
)


@dataclass(frozen=True)
class HeldOutRows:
    """Rows that a run did not learn from."""

    samples: list[Sample]
    """The rows, at least one."""
    source: str
    """Where they are from, as text: the file of held-out rows, or that they are those of the training file."""
    note: Bilingual | None = None
    """What to say of them: the training file has changed, or it cannot be known whether it has."""


def held_out_rows(source: ModelSource, run: RunConfig, limit: int | None, *, tools: bool, raw_text: Bilingual = RAW_TEXT) -> HeldOutRows:
    """The first `limit` held-out rows of a run.

    `tools`: whether the template supports tools. Raises UserError for a run that holds out none, and with `raw_text` for one on raw text.
    """
    if not isinstance(run.data, DataSection):
        raise UserError(Bilingual(f"{source.path}: {raw_text.english}", raw_text.chinese))
    samples, note = run_held_out(source.run_folder, run.data, tools=tools)
    if not samples:
        raise UserError(
            Bilingual(
                f"{source.path}: this run holds out no rows. Give a file with --data.",
                f"{source.path}：该结果没有留出数据：请用 --data 指定文件。",
            )
        )
    file = run.data.dev
    return HeldOutRows(samples[:limit], f"{run.data.train}, its held-out rows / 其中留出的行" if file is None else str(file), note)


def run_held_out(folder: RunFolder, section: DataSection, *, tools: bool) -> tuple[list[Sample], Bilingual | None]:
    """The held-out rows of a run, wherever they stand in the training file now, and what to say of them.

    `tools`: whether the template supports tools. Raises UserError if some are not in the file any more.
    """
    if section.dev is not None or not section.dev_share:
        samples, note = load_held_out(section, tools=tools), None
    elif (record := HeldOutRecord.read(folder.held_out)) is None:
        samples, note = load_samples(section, tools=tools)[1], _not_recorded(folder, section)
    else:
        samples, note = _recorded_held_out(section, record, tools=tools)
    notes = [one for one in (note, _also_learned(folder, samples)) if one is not None]
    return samples, join_lines(notes) if notes else None


def _not_recorded(folder: RunFolder, section: DataSection) -> Bilingual:
    return Bilingual(
        f"{folder.path} does not say which rows it held out, since an earlier version wrote it: if {section.train} has changed since "
        "then, these rows are other ones, and the run may have learned from them.",
        "该结果由旧版本写入，没有记录留出了哪些行：若训练文件此后有改动，这些行可能是训练过的。",
    )


def _also_learned(folder: RunFolder, samples: Sequence[Sample]) -> Bilingual | None:
    """What to say if more than a tenth of the held-out rows were learned too, since copies of them are among the training rows."""
    learned = LearnedRows.read(folder.learned_rows)
    count = learned.count(samples) if learned is not None else 0
    if count <= WARNED_SHARE * len(samples):
        return None
    return Bilingual(
        f"{count:,} of the {len(samples):,} held-out rows are among its training rows too, as copies of them: their scores say what the "
        "model remembers, not how it answers new questions. `imprint data check` finds such copies.",
        f"留出的 {len(samples):,} 行中有 {count:,} 行在训练数据中有相同的行：得分反映的是记忆，不是对新问题的效果。"
        "可用 imprint data check 查找重复的行。",
    )


def _recorded_held_out(section: DataSection, record: HeldOutRecord, *, tools: bool) -> tuple[list[Sample], Bilingual | None]:
    """The held-out rows that a run has recorded, and what to say of them. Raises UserError if some are not in the file any more."""
    samples, now = _held_out_now(section, record, tools=tools)
    left = len(rows_of(samples))
    if left == record.count and now == record.rows:
        return samples, None
    changed = Bilingual(
        f"{section.train}: has changed since the run was trained: it had {record.rows:,} rows and has {now:,}.",
        f"训练文件在训练之后有改动：原有 {record.rows:,} 行，现有 {now:,} 行。",
    )
    if draws_rows(section):
        samples = find_recorded(section, LearnedRows(b""), record, tools=tools).held_out
        left = len(rows_of(samples))
        changed = Bilingual(
            f"{section.train}: has changed since the run was trained, so other rows are taken of it now. All of its rows were searched.",
            "训练文件在训练之后有改动，现在取到的是其他行，因此查找了整个文件。",
        )
    gone = record.missing(rows_of(samples))
    if not gone:
        copies = record.count - left
        once = Bilingual(f", without {copies:,} copies of them,", f"（另有 {copies:,} 行重复的已不在）") if copies else Bilingual("", "")
        still = Bilingual(
            f"All {left:,} rows that the run held out{once.english} are still in it; only they are answered.",
            f"训练时留出的 {left:,} 行{once.chinese}都还在，只用这些行。",
        )
        return samples, join_lines([changed, still])
    advice = Bilingual(
        f"Of the {record.count:,} rows that the run held out, {gone:,} are not in it any more, and it may have learned from the others. "
        "Put the old file back, or give rows with --data.",
        f"训练时留出的 {record.count:,} 行中有 {gone:,} 行已不在其中，其余的行可能是训练过的。请放回原文件，或用 --data 给出问答数据。",
    )
    raise UserError(join_lines([changed, advice]))


def _held_out_now(section: DataSection, record: HeldOutRecord, *, tools: bool) -> tuple[list[Sample], int]:
    """The held-out rows among those that are read for training now, and the number of these; none if rows are drawn and some are bad."""
    if not draws_rows(section) and (found := find_held_out(section, record, tools=tools)) is not None:
        return found
    try:
        learned, samples = load_samples(section, tools=tools, record=record)
    except UserError:
        if draws_rows(section):
            return [], 0
        raise
    return samples, len(rows_of(learned)) + len(rows_of(samples))


def say_note(note: Bilingual | None) -> None:
    """Print what is to be said of held-out rows, if anything."""
    if note is not None:
        say(str(note))


def say_warnings(warnings: Iterable[Bilingual | None]) -> None:
    """Print what scores on rows do not say, where there is a warning."""
    for warning in warnings:
        if warning is not None:
            say(f"warning: {warning.english}\n警告：{warning.chinese}")


def require_run_folder(source: ModelSource) -> RunConfig:
    """The recipe of a run folder, whose held-out rows can be found. Raises UserError for a model folder and for a bundle."""
    if source.run is None or source.kind != "run":
        raise UserError(
            Bilingual(
                f"{source.path}: is no run folder, so it has no held-out rows. Give rows with --data FILE.",
                f"{source.path}：这不是训练结果目录，没有留出数据：请用 --data FILE 给出问答数据。",
            )
        )
    return source.run


def training_rows_warning(samples: Sequence[Sample], training: Sequence[Sample]) -> Bilingual | None:
    """A warning if more than a tenth of the rows are rows that the model learned from; None if not."""
    count = count_learned(samples, training)
    if count <= WARNED_SHARE * len(samples):
        return None
    return Bilingual(
        f"{count:,} of these {len(samples):,} rows are rows that the run learned from: their scores say what it remembers, not "
        "how it answers new questions.",
        f"这 {len(samples):,} 行中有 {count:,} 行是训练过的：得分反映的是记忆，不是对新问题的效果。",
    )


def count_learned(samples: Sequence[Sample], learned: Iterable[Sample]) -> int:
    """Number of `samples` that are among the `learned` ones, in memory that depends only on `samples`."""
    answers = {(sample.query, sample.answer) for sample in samples}
    found = {_content(sample) for sample in learned if (sample.query, sample.answer) in answers}
    return sum(_content(sample) in found for sample in samples)


def _content(sample: Sample) -> tuple[object, ...]:
    return sample.query, sample.answer, sample.history or (), sample.system, sample.context, sample.tool
