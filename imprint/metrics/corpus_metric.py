"""Corpus-level metrics: a function of statistics summed over the rows, with bootstrap intervals.

Corpus BLEU, macro-F1 and perplexity are of this kind, and so is a plain mean. Legend: N rows, C statistics, S bootstrap samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imprint.messages import UserError
from imprint.metrics.means import Mean, require_rows, unpaired_rows

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SAMPLES = 1000
CONFIDENCE = 0.95

FloatArray = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class CorpusMetric:
    """One metric over the rows of a file."""

    statistics: "FloatArray | csr_array"
    """(N, C) statistics of each row; sparse if most are zero."""
    value: Callable[[FloatArray], float]
    """Summed statistics (C,) -> metric."""

    @property
    def rows(self) -> int:
        """N."""
        return int(self.statistics.shape[0])

    def compute(self) -> float:
        """The metric over all rows."""
        return self.value(self.statistics.sum(0))

    def bootstrap(self) -> FloatArray:
        """(S,) the metric of resampled rows; metrics with the same number of rows resample the same rows."""
        rng, rows = np.random.default_rng(0), self.rows
        # Row counts times statistics: avoids copying the sampled rows.
        samples = (np.bincount(rng.integers(0, rows, rows), minlength=rows) for _ in range(SAMPLES))
        return np.array([self.value(self.statistics.T @ row_counts) for row_counts in samples])


def mean_metric(values: FloatArray) -> CorpusMetric:
    """The plain mean of row values (N,)."""
    statistics = np.stack([values, np.ones(len(values))], 1)
    return CorpusMetric(statistics, lambda sums: float(sums[0] / sums[1]))


def estimate(metric: CorpusMetric) -> Mean:
    """The metric over all rows and its 95 % bootstrap interval. Raises UserError if there are no rows."""
    require_rows(metric.rows)
    return Mean(metric.compute(), *_interval(metric.bootstrap()))


def metric_gain(before: CorpusMetric, after: CorpusMetric) -> Mean:
    """The gain of a metric from one model to another, by paired bootstrap: each sample draws the same rows for both.

    Raises UserError if the rows do not match or there are none.
    """
    if before.rows != after.rows:
        raise UserError(unpaired_rows(before.rows, after.rows))
    require_rows(before.rows)
    return Mean(after.compute() - before.compute(), *_interval(after.bootstrap() - before.bootstrap()))


def _interval(samples: FloatArray) -> tuple[float, float]:
    """The percentile interval of the samples (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13)."""
    low, high = np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
