"""The rows that a run learned from, found again in its training file, which may have changed since."""

from dataclasses import dataclass

from imprint.data.dataset import load_samples
from imprint.data.held_out import HeldOutRecord
from imprint.data.learned_rows import LearnedRows
from imprint.data.recorded_rows import draws_rows, find_recorded, find_unchanged
from imprint.data.sample import Sample
from imprint.data.section import DataSection
from imprint.loading.source import ModelSource
from imprint.messages import Bilingual, UserError, join_lines
from imprint.runs import RunFolder


@dataclass(frozen=True)
class TrainingRows:
    """The samples that a model learned from."""

    samples: list[Sample]
    """Those that its training file still holds; none for raw text, and where the file cannot be read any more."""
    note: Bilingual | None = None
    """What to say of them: the training file has changed, or it cannot be known whether it has."""
    recorded: bool = True
    """Whether the run says which rows it learned from."""


def load_training_rows(source: ModelSource, *, tools: bool) -> TrainingRows:
    """The rows that a run was trained on. `tools`: whether the template supports tools."""
    if source.run is None or not isinstance(source.run.data, DataSection):
        return TrainingRows([])
    try:
        return learned_rows(source.run_folder, source.run.data, tools=tools)
    except UserError:
        train = source.run.data.train
        note = Bilingual(
            f"{train}: cannot be read as when the run was trained, so it is not known which of these rows and answers it learned.",
            f"{train}：已无法像训练时那样读取，因此无法判断这些行和回答是否学过。",
        )
        return TrainingRows([], note)


def learned_rows(folder: RunFolder, section: DataSection, *, tools: bool) -> TrainingRows:
    """The rows of the section's training file that the run in `folder` learned from. Raises UserError if the data cannot be read."""
    record, held_out = LearnedRows.read(folder.learned_rows), _held_out_record(folder)
    if record is None:
        return TrainingRows(load_samples(section, tools=tools, record=held_out)[0], _not_recorded(folder, section), recorded=False)
    if (unchanged := find_unchanged(section, record, held_out, tools=tools)) is not None:
        return TrainingRows(unchanged)
    found = find_recorded(section, record, held_out, tools=tools)
    notes = []
    if found.others and not draws_rows(section):
        notes.append(
            Bilingual(
                f"{section.train}: {found.others:,} of the answers that are read from it now are not what the run learned from, and do not "
                "count as learned.",
                f"现在从训练文件读到的回答中有 {found.others:,} 个并非该次训练学过的，不算学过。",
            )
        )
    if gone := record.missing(found.learned):
        notes.append(
            Bilingual(
                f"{section.train}: {gone:,} of the {len(record):,} answers that the run learned are not read from it now, so copies of "
                "them are not counted.",
                f"学过的 {len(record):,} 个回答中有 {gone:,} 个现在读不到，照抄它们的回答不会计入。",
            )
        )
    return TrainingRows(found.learned, join_lines(notes) if notes else None)


def _held_out_record(folder: RunFolder) -> HeldOutRecord | None:
    """Which rows the run held out; None where that is not known or the file is damaged: what was learned has a record of its own."""
    try:
        return HeldOutRecord.read(folder.held_out)
    except UserError:
        return None


def _not_recorded(folder: RunFolder, section: DataSection) -> Bilingual:
    if folder.learned_rows.is_file():
        reason = Bilingual(
            f"{folder.learned_rows} is damaged, so it is not known which rows the run learned from", "记录学过哪些行的文件已损坏"
        )
    else:
        reason = Bilingual(
            f"{folder.path} does not say which rows it learned from, as bundles and runs of earlier versions do not",
            "该结果没有记录学过哪些行（打包文件和旧版本的结果都是这样）",
        )
    return Bilingual(
        f"{reason.english}: if {section.train} has changed since then, rows that it never saw may count as learned, and rows that it "
        "learned may not.",
        f"{reason.chinese}：若训练文件此后有改动，未学过的行可能算作学过，学过的行也可能不计入。",
    )
