"""The data of a before/after report: the same prompts answered by the base and the tuned model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from imprint.forgetting.fill_recall import FillRecall
from imprint.messages import Bilingual
from imprint.metrics.means import Mean, Summary
from imprint.metrics.protocols import get_protocol
from imprint.metrics.rates import FailureRates, failure_warnings
from imprint.metrics.task_scores import METRIC_BY_NAME, named_description

SHOWN_ROWS: Final = 100
"""How many rows the pages show; all are counted."""


@dataclass(frozen=True)
class ComparedRow:
    """One prompt with the answers of both models."""

    prompt: str
    """The prompt of both models."""
    label: str
    """The reference answer; if empty, no scores are shown."""
    base: str
    """The base's answer."""
    tuned: str
    """The tuned model's answer."""
    base_scores: Mapping[str, float]
    """The scores of `base` against `label`: metric -> 0 to 100."""
    tuned_scores: Mapping[str, float]
    """The scores of `tuned` against `label`."""
    metric: str = "rouge-l"
    """The metric that ranks the two answers."""

    @property
    def gain(self) -> float:
        """The tuned answer's score minus the base's."""
        return self.tuned_scores[self.metric] - self.base_scores[self.metric]


@dataclass(frozen=True)
class Comparison:
    """A whole before/after report."""

    title: str
    """Heading of the report."""
    base_name: str
    """The base's name in the report."""
    tuned_name: str
    """The name of the run or the adapter."""
    rows: tuple[ComparedRow, ...]
    """All rows, in data order."""
    base_summary: Summary | None
    """The base's scores over all rows; None if there are no references."""
    tuned_summary: Summary | None
    """The tuned model's scores over the same rows."""
    base_rates: FailureRates
    """Failure rates of the base's answers over all rows."""
    tuned_rates: FailureRates
    """Failure rates of the tuned model's answers; the report warns if they are high."""
    settings: Mapping[str, str]
    """Settings of the evaluation, such as data file, decoding and seed: name -> value."""
    gains: Mapping[str, Mean] = field(default_factory=dict)
    """Metric -> gain over the same rows; if empty, the report shows differences of means without intervals."""
    baseline: Summary | None = None
    """The scores of the classical baseline on the same rows, if the task has one."""
    picture: Path | None = None
    """A PNG next to the report, such as the confusion matrices of a classification."""
    fill_texts: tuple[str, ...] = ()
    """The texts of `fill`; answers that have those of their label are counted."""

    @property
    def shown(self) -> tuple[ComparedRow, ...]:
        """The rows that the pages show: the first `SHOWN_ROWS`."""
        return self.rows[:SHOWN_ROWS]


@dataclass(frozen=True)
class WinCount:
    """In how many rows the tuned answer is better than the base's, equally good or worse, by one metric."""

    metric: str
    """Name of the metric."""
    better: int
    """Rows in which the tuned answer is better."""
    same: int
    """Rows in which both have the same score."""
    worse: int
    """Rows in which the tuned answer is worse."""

    @property
    def rows(self) -> int:
        """Rows that were scored."""
        return self.better + self.same + self.worse

    def message(self) -> Bilingual:
        """The counts as a message."""
        return Bilingual(
            f"by {self.metric}: better in {self.better:,} of {self.rows:,} rows, same in {self.same:,}, worse in {self.worse:,}",
            f"按 {self.metric}：{self.rows:,} 行中更好 {self.better:,} 行，相同 {self.same:,} 行，更差 {self.worse:,} 行",
        )


def win_counts(rows: Sequence[ComparedRow]) -> list[WinCount]:
    """Better, same and worse over all labelled rows, for each metric that rows are scored by; the one that ranks answers comes first."""
    labelled = [row for row in rows if row.label]
    if not labelled:
        return []
    first = labelled[0]
    metrics = [first.metric, *(metric for metric in first.tuned_scores if metric != first.metric)]
    return [_win_count(labelled, metric) for metric in metrics]


def _win_count(rows: Sequence[ComparedRow], metric: str) -> WinCount:
    sign = -1 if METRIC_BY_NAME[metric].lower_is_better else 1
    gains = [sign * (row.tuned_scores[metric] - row.base_scores[metric]) for row in rows]
    better, worse = (sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains))
    return WinCount(metric, better, len(gains) - better - worse, worse)


def count_messages(comparison: Comparison) -> list[Bilingual]:
    """What is counted over all rows besides scores: identical answers, and answers with the texts of `fill`."""
    rows = comparison.rows
    if not rows:
        return []
    same = sum(row.base.strip() == row.tuned.strip() for row in rows)
    share = f"{same / len(rows):.1%}"
    messages = [
        Bilingual(
            f"identical answers of base and tuned model: {same:,} of {len(rows):,} rows ({share})",
            f"微调前后回答相同：{len(rows):,} 行中有 {same:,} 行（{share}）",
        )
    ]
    filled = FillRecall.count([(row.label, row.base, row.tuned) for row in rows], comparison.fill_texts)
    return [filled.message(), *messages] if filled else messages


def shown_message(comparison: Comparison) -> Bilingual | None:
    """How many rows the pages show, of how many; None if they show all."""
    shown, rows = len(comparison.shown), len(comparison.rows)
    if shown == rows:
        return None
    return Bilingual(
        f"The first {shown:,} of {rows:,} rows are shown; all {rows:,} are counted. `evaluations/` in the run folder has all answers.",
        f"只显示 {rows:,} 行中的前 {shown:,} 行；统计包含全部 {rows:,} 行。全部回答见训练结果目录中的 `evaluations/`。",
    )


@dataclass(frozen=True)
class MetricLine:
    """One line of the table of scores."""

    metric: str
    """Name of the metric."""
    base: Mean
    """The base's score."""
    tuned: Mean
    """The tuned model's score."""
    gain: float
    """The tuned model's mean minus the base's."""
    interval: tuple[float, float] | None
    """The 95 % interval of the gain, if rows were paired."""
    baseline: Mean | None
    """The classical baseline's score, if there is one."""

    @property
    def lower_is_better(self) -> bool:
        """Whether lower is better."""
        return METRIC_BY_NAME[self.metric].lower_is_better

    @property
    def kind(self) -> str:
        """The change: "up" if significantly better, "down" if significantly worse, else "even"."""
        low, high = self.interval or (self.gain, self.gain)
        rose, fell = ("down", "up") if self.lower_is_better else ("up", "down")
        return rose if low > 0 else fell if high < 0 else "even"


def metric_lines(comparison: Comparison) -> list[MetricLine]:
    """The table of scores: one line for each metric of both summaries; empty if nothing was scored."""
    if comparison.base_summary is None or comparison.tuned_summary is None:
        return []
    base, tuned = comparison.base_summary.means, comparison.tuned_summary.means
    lines = []
    for metric in (metric for metric in base if metric in tuned):
        gain = comparison.gains.get(metric)
        interval = (gain.low, gain.high) if gain else None
        baseline = comparison.baseline.means.get(metric) if comparison.baseline else None
        lines.append(MetricLine(metric, base[metric], tuned[metric], tuned[metric].value - base[metric].value, interval, baseline))
    return lines


def metric_notes(summary: Summary) -> tuple[Bilingual, ...]:
    """What the metrics of a table count."""
    return summary.notes or (named_description(summary.protocol, get_protocol(summary.protocol).description),)


@dataclass(frozen=True)
class RateLine:
    """One line of the table of failure rates."""

    name: Bilingual
    """What is counted."""
    base: float | None
    """The share (0-1) of the base's answers; None if unknown."""
    tuned: float | None
    """The share of the tuned model's answers."""


def rate_lines(comparison: Comparison) -> list[RateLine]:
    """The table of failure rates."""
    base, tuned = comparison.base_rates, comparison.tuned_rates
    return [
        RateLine(Bilingual("empty answers", "空回答"), base.empty, tuned.empty),
        RateLine(Bilingual("repeating answers", "重复的回答"), base.repeated, tuned.repeated),
        RateLine(Bilingual("never-ending answers", "停不下来的回答"), base.unfinished, tuned.unfinished),
    ]


def tuned_warnings(comparison: Comparison) -> list[Bilingual]:
    """Warnings about degenerate answers of the tuned model."""
    warnings = failure_warnings(comparison.tuned_rates)
    return [Bilingual(f"Tuned: {warning.english}", f"微调后：{warning.chinese}") for warning in warnings]


def parse_attributes(prompt: str) -> list[tuple[str, str]]:
    """The (name, value) pairs of a prompt like `类型#上衣*颜色#白色`; empty if it is no such list."""
    pairs = [part.split("#") for part in prompt.strip().split("*")]
    if any(len(pair) != 2 or not all(side.strip() for side in pair) or "\n" in "".join(pair) for pair in pairs):
        return []
    return [(name.strip(), value.strip()) for name, value in pairs]


def format_signed(value: float, digits: int) -> str:
    """The number with a sign (a true minus); without one if it rounds to zero."""
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return ("+" if value > 0 else "\u2212") + text
