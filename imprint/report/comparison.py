"""The data of a before/after report: the same prompts answered by the base and the tuned model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imprint.messages import Bilingual
from imprint.metrics.means import Mean, Summary
from imprint.metrics.protocols import get_protocol
from imprint.metrics.rates import FailureRates, failure_warnings
from imprint.metrics.task_scores import METRIC_BY_NAME, named_description


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
    """The rows to show, in data order."""
    base_summary: Summary | None
    """The base's scores over all rows, which may be more than are shown; None if there are no references."""
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
