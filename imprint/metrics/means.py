"""Means of row scores, and how far chance in the choice of rows could move them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from imprint.errors import UserError
from imprint.metrics.scores import RowScore, score_rows

METRICS = ("rouge-1", "rouge-2", "rouge-l", "bleu-4")


@dataclass(frozen=True)
class Mean:
    """The mean of one metric over the rows, 0-100, and how far chance in the choice of rows could move it."""

    value: float
    """Mean over the rows."""
    low: float
    """Lower end of the bootstrap interval of the mean."""
    high: float
    """Upper end of the bootstrap interval of the mean."""


@dataclass(frozen=True)
class Note:
    """A sentence for a person, in both languages."""

    english: str
    """The sentence in English."""
    chinese: str
    """The sentence in Chinese."""


@dataclass(frozen=True)
class Summary:
    """What a set of predictions scored."""

    protocol: str
    """Name of the protocol: a key of `PROTOCOLS`, or what scores another task, as `sacrebleu-zh`."""
    rows: int
    """How many predictions were scored."""
    empty: int
    """How many of them were empty; these scored 0, or were dropped where the protocol says so."""
    means: dict[str, Mean]
    """Name of the metric -> its mean, in the order of tables."""
    dropped: int = 0
    """How many rows the protocol left out of the means."""
    notes: tuple[Note, ...] = ()
    """What the figures count; empty: the protocol says all."""


def score(predictions: Sequence[str], references: Sequence[str], protocol: str = "chatglm-6b") -> dict[str, float | int]:
    """The mean scores of predictions: `rouge-1`, `rouge-2`, `rouge-l`, `bleu-4` (0-100) and `empty` (a count).

    Raises UserError for an unknown protocol, for lists of different lengths and for lists without rows.
    """
    rows = score_rows(predictions, references, protocol)
    refuse_nothing(len(rows))
    columns = _columns(rows)
    means: dict[str, float | int] = {metric: float(np.mean(columns[place])) for place, metric in enumerate(METRICS)}
    return means | {"empty": sum(row.empty for row in rows)}


def summary(rows: Sequence[RowScore], protocol: str = "chatglm-6b") -> Summary:
    """The mean and the 95 % interval of each metric. Raises UserError when there are no rows."""
    refuse_nothing(len(rows))
    means = {metric: _mean(values) for metric, values in zip(METRICS, _columns(rows), strict=True)}
    return Summary(protocol, len(rows), sum(row.empty for row in rows), means, sum(not row.counted for row in rows))


def gains(before: Sequence[RowScore], after: Sequence[RowScore]) -> dict[str, Mean]:
    """How much each metric rose from one model to another on the same rows: mean and 95 % interval of the rows' differences.

    Rows are paired, so a gain is surer than two intervals side by side suggest; a row that its protocol dropped for either model is in no
    pair. Raises UserError for different or no rows.
    """
    if len(before) != len(after):
        raise UserError(f"{len(before)} rows before and {len(after)} after cannot be paired: score both models on the same rows.")
    refuse_nothing(len(before))
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if old.counted and new.counted]
    if not pairs:
        return {metric: Mean(0.0, 0.0, 0.0) for metric in METRICS}
    old_columns, new_columns = _columns([old for old, _ in pairs]), _columns([new for _, new in pairs])
    return {metric: _mean(new - old) for metric, old, new in zip(METRICS, old_columns, new_columns, strict=True)}


def interval(values: Sequence[float], *, seed: int = 0, samples: int = 1000, confidence: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean: (low, high); the same for the same values and seed.

    Raises UserError when there are no values. Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    refuse_nothing(len(values))
    found = np.asarray(values, dtype=np.float64)
    chance = np.random.default_rng(seed)
    means = [found[chance.integers(0, len(found), len(found))].mean() for _ in range(samples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def refuse_nothing(rows: int) -> None:
    """Raise UserError when there is nothing to take a mean of."""
    if not rows:
        raise UserError("There is nothing to score: 0 rows were given, at least 1 is needed.")


def _columns(rows: Sequence[RowScore]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The scores of the rows that count, one line for each of `METRICS`; where none counts, one row of zeros, as ms-swift says then."""
    counted = [tuple(row.by_metric().values()) for row in rows if row.counted] or [(0.0,) * len(METRICS)]
    return np.array(counted, dtype=np.float64).T.copy()


def _mean(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Mean:
    return Mean(float(np.mean(values)), *interval(values.tolist()))
