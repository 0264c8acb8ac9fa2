"""The same prompts through the base and the tuned model: the value that both reports render."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imprint.metrics.judge import METRIC
from imprint.metrics.means import Mean, Note, Summary
from imprint.metrics.protocols import protocol_named
from imprint.metrics.rates import Rates, Warned, warnings_of


@dataclass(frozen=True)
class Compared:
    """One prompt and what both models said to it."""

    prompt: str
    """What both models were asked."""
    label: str
    """The reference answer; empty where there is none, and then no scores are shown."""
    base: str
    """What the untouched model said."""
    tuned: str
    """What the tuned model said."""
    base_scores: Mapping[str, float]
    """The scores of `base` against `label`: metric -> 0 to 100."""
    tuned_scores: Mapping[str, float]
    """The scores of `tuned` against `label`."""
    key: str = "rouge-l"
    """The metric that says which of the two is nearer to the label."""

    @property
    def gain(self) -> float:
        """How much nearer the tuned answer is."""
        return self.tuned_scores[self.key] - self.base_scores[self.key]


@dataclass(frozen=True)
class Comparison:
    """A whole before/after report."""

    title: str
    """Heading of the report."""
    base_name: str
    """What the untouched model is called, as the person knows it."""
    tuned_name: str
    """What the tuned model is called: the run or the adapter."""
    rows: tuple[Compared, ...]
    """The prompts to show, in the order of the data."""
    base_summary: Summary | None
    """What the untouched model scored, over all scored rows, which may be more than are shown; None where there was no reference."""
    tuned_summary: Summary | None
    """What the tuned model scored, over the same rows."""
    base_rates: Rates
    """How many of the untouched model's answers went wrong in a way that a mean hides, over all rows."""
    tuned_rates: Rates
    """The same of the tuned model; where it is too many, the report warns."""
    facts: Mapping[str, str]
    """What one must know to read the scores, such as data file, decoding and seed: name -> value."""
    gains: Mapping[str, Mean] = field(default_factory=dict)
    """From `metrics.gains`, over the same rows: metric -> gain; empty: the report shows the differences of the means alone."""
    baseline: Summary | None = None
    """What a classical baseline scored on the same rows, where the task has one."""
    picture: Path | None = None
    """A PNG beside the report that belongs to its scores, as the confusions of a classification."""


@dataclass(frozen=True)
class MetricLine:
    """One line of the table of scores."""

    metric: str
    """Name of the metric."""
    base: Mean
    """What the untouched model scored."""
    tuned: Mean
    """What the tuned model scored."""
    gain: float
    """The tuned model's mean less the base's."""
    bounds: tuple[float, float] | None
    """The 95 % interval of the gain, where rows were paired."""
    beside: Mean | None
    """What the classical baseline scored, where there is one."""

    @property
    def falls(self) -> bool:
        """Whether lower is better."""
        return METRIC[self.metric].falls

    @property
    def kind(self) -> str:
        """What happened: "up" for surely better, "down" for surely worse, "even" for what may be chance."""
        low, high = self.bounds or (self.gain, self.gain)
        rose, fell = ("down", "up") if self.falls else ("up", "down")
        return rose if low > 0 else fell if high < 0 else "even"


def metric_lines(comparison: Comparison) -> list[MetricLine]:
    """The table of scores, one line for each metric that both summaries have; none where nothing was scored."""
    if comparison.base_summary is None or comparison.tuned_summary is None:
        return []
    base, tuned = comparison.base_summary.means, comparison.tuned_summary.means
    lines = []
    for metric in (metric for metric in base if metric in tuned):
        gain = comparison.gains.get(metric)
        bounds = (gain.low, gain.high) if gain else None
        beside = comparison.baseline.means.get(metric) if comparison.baseline else None
        lines.append(MetricLine(metric, base[metric], tuned[metric], tuned[metric].value - base[metric].value, bounds, beside))
    return lines


def notes_of(found: Summary) -> tuple[Note, ...]:
    """What the figures of a table count."""
    if found.notes:
        return found.notes
    protocol = protocol_named(found.protocol)
    return (Note(f"{protocol.name}: {protocol.sentence}", f"{protocol.name}：{protocol.chinese}"),)


@dataclass(frozen=True)
class RateLine:
    """One line of the table of what means hide."""

    english: str
    """What is counted."""
    chinese: str
    """The same in Chinese."""
    base: float | None
    """The share (0-1) of the untouched model's answers; None where it is not known."""
    tuned: float | None
    """The share of the tuned model's answers."""


def rate_lines(comparison: Comparison) -> list[RateLine]:
    """The table of what means hide."""
    base, tuned = comparison.base_rates, comparison.tuned_rates
    return [
        RateLine("empty answers", "空回答", base.empty, tuned.empty),
        RateLine("repeating answers", "重复的回答", base.repeated, tuned.repeated),
        RateLine("never-ending answers", "停不下来的回答", base.unfinished, tuned.unfinished),
    ]


def warned_of(comparison: Comparison) -> list[Warned]:
    """What is wrong with many of the tuned model's answers."""
    return [Warned(f"Tuned: {one.english}", f"微调后：{one.chinese}") for one in warnings_of(comparison.tuned_rates)]


def attributes(prompt: str) -> list[tuple[str, str]]:
    """The pairs of a prompt like `类型#上衣*颜色#白色`; empty when the prompt is not such a list."""
    pairs = [part.split("#") for part in prompt.strip().split("*")]
    if any(len(pair) != 2 or not all(side.strip() for side in pair) or "\n" in "".join(pair) for pair in pairs):
        return []
    return [(name.strip(), value.strip()) for name, value in pairs]


def signed(value: float, digits: int) -> str:
    """The number with its sign, a true minus, and no sign for what rounds to zero."""
    text = f"{abs(value):.{digits}f}"
    if not float(text):
        return text
    return ("+" if value > 0 else "\u2212") + text
