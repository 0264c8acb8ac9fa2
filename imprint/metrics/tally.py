"""Scores that are no means of rows: what each row adds to some counts, and what the sums of the counts come to.

A corpus BLEU, a macro-F1 and a perplexity are of this kind, and so is a plain mean. Legend: N rows, C counts, S drawn samples.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imprint.errors import UserError
from imprint.metrics.means import Mean, refuse_nothing

if TYPE_CHECKING:
    from scipy.sparse import csr_array

SAMPLES = 1000
CONFIDENCE = 0.95

Counts = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Tally:
    """One metric over the rows of a file."""

    counts: "Counts | csr_array"
    """(N, C) what each row adds; sparse where most of it is nothing."""
    value: Callable[[Counts], float]
    """The sums (C,) -> the metric."""

    @property
    def rows(self) -> int:
        """N."""
        return int(self.counts.shape[0])

    def whole(self) -> float:
        """The metric of all rows."""
        return self.value(self.counts.sum(0))

    def drawn(self, seed: int = 0) -> Counts:
        """(S,) the metric of rows drawn again with replacement, as many as there are; the same rows for tallies of the same length."""
        chance, rows = np.random.default_rng(seed), self.rows
        # how often each row is drawn, times what it adds: no sample of rows is ever copied
        times = (np.bincount(chance.integers(0, rows, rows), minlength=rows) for _ in range(SAMPLES))
        return np.array([self.value(self.counts.T @ drawn) for drawn in times])


def mean_tally(values: Counts) -> Tally:
    """A plain mean of the rows' own values (N,)."""
    counts = np.stack([values, np.ones(len(values))], 1)
    return Tally(counts, lambda sums: float(sums[0] / sums[1]))


def tallied(tally: Tally) -> Mean:
    """The metric of all rows and its 95 % bootstrap interval. Raises UserError when there are no rows."""
    refuse_nothing(tally.rows)
    return Mean(tally.whole(), *_bounds(tally.drawn()))


def tally_gain(before: Tally, after: Tally) -> Mean:
    """How much the metric rose from one model to another on the same rows; in each sample the same rows are drawn for both.

    Raises UserError for different or no rows.
    """
    if before.rows != after.rows:
        raise UserError(f"{before.rows} rows before and {after.rows} after cannot be paired: score both models on the same rows.")
    refuse_nothing(before.rows)
    return Mean(after.whole() - before.whole(), *_bounds(after.drawn() - before.drawn()))


def _bounds(drawn: Counts) -> tuple[float, float]:
    """The middle 95 % of the samples (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13)."""
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
