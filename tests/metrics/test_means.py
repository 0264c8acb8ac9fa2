"""Means, their intervals, and gains from one model to another."""

import pytest

from imprint.messages import UserError
from imprint.metrics.means import METRICS, Mean, gains, interval, score, summary
from imprint.metrics.scores import RowScore, score_rows


def test_no_rows_are_refused() -> None:
    with pytest.raises(UserError, match="at least 1 is needed"):
        score([], [])


def test_an_interval_covers_the_mean_and_is_the_same_again() -> None:
    values = [float(value % 37) for value in range(300)]

    low, high = interval(values)

    assert low < sum(values) / len(values) < high
    assert (low, high) == interval(values)
    assert (low, high) != interval(values, seed=1)


def test_an_interval_is_as_wide_as_theory_says() -> None:
    values = [0.0, 1.0] * 200  # the standard error of the mean is 0.5 / sqrt(400) = 0.025

    low, high = interval(values, samples=4000)

    assert high - low == pytest.approx(2 * 1.96 * 0.025, rel=0.1)


def test_more_rows_and_less_confidence_make_an_interval_narrower() -> None:
    values = [0.0, 1.0, 5.0, 9.0] * 10

    def width(bounds: tuple[float, float]) -> float:
        return bounds[1] - bounds[0]

    assert width(interval(values * 10)) < width(interval(values)) / 2
    assert width(interval(values, confidence=0.5)) < width(interval(values))


def test_one_value_has_an_interval_of_no_width() -> None:
    assert interval([7.0]) == (7.0, 7.0)


def test_a_summary_has_the_mean_interval_and_counts() -> None:
    predictions, references = ["好的", "", "白色上衣"] * 5, ["好的", "好", "黑色上衣"] * 5

    found = summary(score_rows(predictions, references))

    assert (found.protocol, found.rows, found.empty) == ("chatglm-6b", 15, 5)
    assert list(found.means) == list(METRICS)
    for name, mean in found.means.items():
        assert mean.low <= mean.value <= mean.high
        assert mean.value == score(predictions, references)[name]


def test_a_gain_is_paired_and_so_surer_than_two_intervals() -> None:
    before = [RowScore(value, value, value, value, empty=False) for value in range(0, 90, 3)]
    after = [RowScore(row.bleu_4 + 2 + place % 2, 0.0, 0.0, row.bleu_4 + 2 + place % 2, empty=False) for place, row in enumerate(before)]

    gain = gains(before, after)["bleu-4"]

    assert gain.value == pytest.approx(2.5)
    assert 2 < gain.low < 2.5 < gain.high < 3
    assert summary(after).means["bleu-4"].low < summary(before).means["bleu-4"].high
    with pytest.raises(UserError, match="30 rows before and 29 after cannot be paired"):
        gains(before, after[1:])


def test_rows_that_a_protocol_drops_are_in_no_mean_and_in_no_pair() -> None:
    before = score_rows(["黑色上衣", "", "好"], ["白色上衣", "好", "好"], "swift")
    after = score_rows(["白色上衣", "好", ""], ["白色上衣", "好", "好"], "swift")

    found = summary(before, "swift")
    gain = gains(before, after)["rouge-1"]

    assert (found.rows, found.empty, found.dropped) == (3, 1, 1)
    assert found.means["rouge-1"].value == pytest.approx((50 + 100) / 2, abs=1e-3)
    assert (gain.value, gain.low, gain.high) == pytest.approx((50, 50, 50), abs=1e-3)  # the first row alone


def test_where_no_row_counts_the_means_are_zero() -> None:
    nothing = score_rows([""], ["好"], "swift")

    assert summary(nothing, "swift").means["bleu-4"] == Mean(0.0, 0.0, 0.0)
    assert gains(nothing, nothing)["bleu-4"] == Mean(0.0, 0.0, 0.0)
