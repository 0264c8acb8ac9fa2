"""Means of row scores and their bootstrap confidence intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from imprint.arguments import text, texts
from imprint.messages import Bilingual, UserError
from imprint.metrics.scores import RowScore, score_rows

METRICS = ("rouge-1", "rouge-2", "rouge-l", "bleu-4")
DRAWN_AT_ONCE = 2**20
"""Rows that the bootstrap draws in one go: 16 MiB."""


@dataclass(frozen=True)
class Mean:
    """The mean of one metric over the rows, 0-100, and its 95 % bootstrap interval."""

    value: float
    """Mean over the rows."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


@dataclass(frozen=True)
class Summary:
    """The scores of a set of predictions."""

    protocol: str
    """Name of the protocol: a key of `PROTOCOLS`, or that of another task, such as `sacrebleu-zh`."""
    rows: int
    """How many predictions were scored."""
    empty: int
    """How many of them were empty; these score 0, or are dropped if the protocol says so."""
    means: dict[str, Mean]
    """Metric -> mean, in table order."""
    dropped: int = 0
    """How many rows the protocol excluded from the means."""
    notes: tuple[Bilingual, ...] = ()
    """What the metrics count; if empty, the protocol's description says it."""


def score(predictions: Sequence[str], references: Sequence[str], protocol: str = "chatglm-6b") -> dict[str, float | int]:
    """The mean scores of predictions: `rouge-1`, `rouge-2`, `rouge-l`, `bleu-4` (0-100) and `empty` (a count).

    Raises UserError for an unknown protocol, for lists of different lengths or without rows, and for rows that are no texts.
    """
    rows = score_rows(texts("predictions", predictions), texts("references", references), text("protocol", protocol))
    require_rows(len(rows))
    columns = _columns(rows)
    means: dict[str, float | int] = {metric: float(np.mean(columns[index])) for index, metric in enumerate(METRICS)}
    return means | {"empty": sum(row.empty for row in rows)}


def summary(rows: Sequence[RowScore], protocol: str = "chatglm-6b") -> Summary:
    """The mean and 95 % interval of each metric. Raises UserError if there are no rows."""
    require_rows(len(rows))
    means = {metric: _mean(values) for metric, values in zip(METRICS, _columns(rows), strict=True)}
    return Summary(protocol, len(rows), sum(row.empty for row in rows), means, sum(not row.counted for row in rows))


def gains(before: Sequence[RowScore], after: Sequence[RowScore]) -> dict[str, Mean]:
    """The gain of each metric from one model to another: mean and 95 % interval of the paired row differences.

    Pairing makes the interval narrower than two separate intervals suggest. A row that the protocol dropped for either model is
    excluded. Raises UserError if the rows do not match or there are none.
    """
    if len(before) != len(after):
        raise UserError(unpaired_rows(len(before), len(after)))
    require_rows(len(before))
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if old.counted and new.counted]
    if not pairs:
        return {metric: Mean(0.0, 0.0, 0.0) for metric in METRICS}
    old_columns, new_columns = _columns([old for old, _ in pairs]), _columns([new for _, new in pairs])
    return {metric: _mean(new - old) for metric, old, new in zip(METRICS, old_columns, new_columns, strict=True)}


def interval(values: Sequence[float], *, seed: int = 0, samples: int = 1000, confidence: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean: (low, high); deterministic for a seed.

    Raises UserError if there are no values. Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    require_rows(len(values))
    array = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty(samples)
    together = max(1, DRAWN_AT_ONCE // len(array))
    for first in range(0, samples, together):
        part = means[first : first + together]
        part[:] = array[rng.integers(0, len(array), (len(part), len(array)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def require_rows(rows: int) -> None:
    """Raise UserError if there are no rows to average."""
    if not rows:
        raise UserError(
            Bilingual(
                "There is nothing to score: 0 rows were given, at least 1 is needed.", "没有可打分的内容：给出了 0 行，至少需要 1 行。"
            )
        )


def unpaired_rows(before: int, after: int) -> Bilingual:
    """The message if two models were scored on different numbers of rows."""
    return Bilingual(
        f"{before} rows before and {after} after cannot be paired: score both models on the same rows.",
        f"微调前 {before} 行，微调后 {after} 行，无法逐行配对：请在相同的数据上给两个模型打分。",
    )


def _columns(rows: Sequence[RowScore]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The scores of counted rows, (metrics, rows); if none counts, one row of zeros, as in ms-swift."""
    counted = [tuple(row.by_metric().values()) for row in rows if row.counted] or [(0.0,) * len(METRICS)]
    return np.array(counted, dtype=np.float64).T.copy()


def _mean(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Mean:
    return Mean(float(np.mean(values)), *interval(values.tolist()))
