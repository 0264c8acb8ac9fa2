"""What the length limits cut from the rows of a run, and which limits would cut nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from imprint.data.encode import EncodedRow
from imprint.data.limits import LengthLimits, needed_limits
from imprint.messages import Bilingual

NOTHING: Final = LengthLimits(0, 0)
ROWS: Final = Bilingual("rows", "行数据")
TRAINING_ROWS: Final = Bilingual("rows to learn from", "行训练数据")
HELD_OUT_ROWS: Final = Bilingual("held-out rows", "行留出数据")


@dataclass(frozen=True)
class TruncationReport:
    """Counts of the rows truncated by the length limits."""

    rows: int = 0
    """Number of encoded rows: one for each answer."""
    cut: int = 0
    """Number of truncated rows."""
    dropped_turns: int = 0
    """Number of rows without some of their history turns."""
    cut_prompts: int = 0
    """Number of rows with a truncated question (with truncation=original: a truncated prompt)."""
    cut_answers: int = 0
    """Number of rows with a truncated answer."""
    needed: LengthLimits = field(default=NOTHING, compare=False)
    """The smallest limits that truncate no row."""
    file_rows: int | None = None
    """Number of rows of the file, a conversation being one; None if each has one answer."""

    @classmethod
    def from_rows(cls, rows: Sequence[EncodedRow], file_rows: int | None = None) -> "TruncationReport":
        """Counts over encoded rows, which come from `file_rows` rows of the file; None: from as many."""
        return cls(
            rows=len(rows),
            cut=sum(row.cut for row in rows),
            dropped_turns=sum(row.dropped_turns > 0 for row in rows),
            cut_prompts=sum(row.cut_prompt_tokens > 0 for row in rows),
            cut_answers=sum(row.cut_answer_tokens > 0 for row in rows),
            needed=needed_limits(rows),
            file_rows=None if file_rows == len(rows) else file_rows,
        )

    def count(self, rows: Bilingual = ROWS) -> Bilingual:
        """The number of rows as text: `500 rows`; where rows of the file hold several answers: `300 answers of 100 rows`."""
        if self.file_rows is None:
            return Bilingual(f"{self.rows} {rows.english}", f"{self.rows} {rows.chinese}")
        return Bilingual(f"{self.rows} answers of {self.file_rows} {rows.english}", f"{self.file_rows} {rows.chinese}的 {self.rows} 个回答")

    def summary(self, rows: Bilingual = ROWS) -> Bilingual:
        """The report as text: `12 of 500 rows were cut (2.4 %): 10 lost the end of the answer, 2 lost old turns.`."""
        counted, unit = self.count(rows), "行" if self.file_rows is None else "个"
        if not self.cut:
            return Bilingual(f"none of {counted.english} was cut.", f"{counted.chinese}均未被截断。")
        losses = [
            (self.cut_answers, Bilingual("the end of the answer", "回答的结尾")),
            (self.cut_prompts, Bilingual("a part of the prompt", "提问的一部分")),
            (self.dropped_turns, Bilingual("old turns", "较早的轮次")),
        ]
        share = f"{100 * self.cut / self.rows:.1f} %"
        english = ", ".join(f"{count} lost {what.english}" for count, what in losses if count)
        chinese = "，".join(f"{count} {unit}丢失{what.chinese}" for count, what in losses if count)
        return Bilingual(
            f"{self.cut} of {counted.english} were cut ({share}): {english}.",
            f"{counted.chinese}中有 {self.cut} {unit}被截断（{share}）：{chinese}。",
        )


def cut_warning(train: TruncationReport, dev: TruncationReport, limits: LengthLimits, max_length: int) -> Bilingual | None:
    """What the limits cut, with the knobs and the values that would cut nothing; None if nothing is cut.

    `max_length`: length of the longest sequence that the base was trained on, beyond which no limit helps.
    """
    reports = ((train, TRAINING_ROWS), (dev, HELD_OUT_ROWS))
    summaries = [report.summary(rows) for report, rows in reports if report.cut]
    if not summaries:
        return None
    needed = train.needed.widest(dev.needed)
    cure = limits_cure(needed, limits, max_length, Bilingual("begin a run in another folder with", "请换一个输出目录重新训练，并设"))
    parts = [*summaries, cure]
    return Bilingual(" ".join(part.english for part in parts), "".join(part.chinese for part in parts))


def limits_cure(needed: LengthLimits, limits: LengthLimits, max_length: int, action: Bilingual) -> Bilingual:
    """How to cut nothing: which knob to raise to which value, after the words of `action`.

    Where the rows need more than `max_length` tokens, shorter rows are the cure.
    """
    if needed.prompt + needed.answer > max_length:
        return Bilingual(
            f"To keep them whole takes {needed}, more than the {max_length} tokens that the base reads at once: shorten or split the "
            "longest rows.",
            f"完整保留需要 {needed}，超过底座一次能读的 {max_length} 个词元：请缩短或拆分最长的数据。",
        )
    sides = [(name, limit, limits.knobs[name]) for name, limit in needed.knobs.items() if limit > limits.knobs[name]]
    knobs = " ".join(f"data.{name}={limit}" for name, limit, _now in sides)
    now = [str(now) for _name, _limit, now in sides]
    return Bilingual(
        f"To cut nothing, {action.english} {knobs} (now {' and '.join(now)}).",
        f"要完整保留，{action.chinese} {knobs}（现为 {' 和 '.join(now)}）。",
    )
