import numpy as np
import pytest

from imprint.messages import UserError
from imprint.metrics.corpus_metric import CorpusMetric, estimate, mean_metric, metric_gain
from imprint.metrics.means import interval

VALUES = np.array([3.0, 80.0, 41.0, 0.0, 100.0, 12.5, 66.0])


def test_a_mean_has_the_bootstrap_interval_that_all_means_have() -> None:
    found = estimate(mean_metric(VALUES))
    assert found.value == pytest.approx(VALUES.mean())
    assert (found.low, found.high) == pytest.approx(interval(VALUES.tolist()))


def test_a_gain_draws_the_same_rows_for_both() -> None:
    gain = metric_gain(mean_metric(VALUES), mean_metric(VALUES + 5))
    assert (gain.value, gain.low, gain.high) == pytest.approx((5, 5, 5))


def test_a_ratio_of_sums_is_no_mean_of_ratios() -> None:
    ratio = CorpusMetric(np.array([[1.0, 1.0], [0.0, 9.0]]), lambda sums: float(sums[0] / sums[1]))
    found = estimate(ratio)
    assert found.value == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((0.0, 1.0))


def test_rows_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(UserError, match="7 rows before and 6 after cannot be paired"):
        metric_gain(mean_metric(VALUES), mean_metric(VALUES[1:]))
    with pytest.raises(UserError, match="nothing to score"):
        estimate(mean_metric(VALUES[:0]))
