"""What both reports share: the score lines, the attribute lists, the signs."""

from dataclasses import replace

import pytest

from imprint.report.comparison import Comparison, format_signed, metric_lines, parse_attributes, rate_lines, tuned_warnings


def test_a_line_of_scores_has_the_difference_of_the_means_and_its_interval(comparison: Comparison) -> None:
    lines = metric_lines(comparison)

    assert [line.metric for line in lines] == ["rouge-1", "rouge-2", "rouge-l", "bleu-4"]
    for line in lines:
        assert line.interval is not None
        assert line.gain == pytest.approx(comparison.gains[line.metric].value)
        assert line.interval[0] <= line.gain <= line.interval[1]
    assert [line.interval for line in metric_lines(replace(comparison, gains={}))] == [None] * 4


def test_where_nothing_was_scored_there_are_rates_and_no_lines_of_scores(comparison: Comparison, questions: Comparison) -> None:
    assert metric_lines(questions) == []
    assert [(line.name.english, line.tuned) for line in rate_lines(questions)] == [
        ("empty answers", 0.25),
        ("repeating answers", 0.5),
        ("never-ending answers", 0.75),
    ]
    assert rate_lines(comparison)[2].tuned is None


def test_the_tuned_model_is_warned_of_and_not_the_base(questions: Comparison) -> None:
    assert len(tuned_warnings(questions)) == 3
    assert tuned_warnings(replace(questions, base_rates=questions.tuned_rates, tuned_rates=questions.base_rates)) == []


def test_an_attribute_list_is_read_as_pairs() -> None:
    assert parse_attributes("类型#上衣*颜色#白色 ") == [("类型", "上衣"), ("颜色", "白色")]


@pytest.mark.parametrize("prompt", ["", "你好", "类型#上衣*颜色", "a#b#c", "#白色", "类型#", "# 标题\n* 一\n* 二", "1*2*3", "类型#上\n衣"])
def test_another_prompt_is_no_attribute_list(prompt: str) -> None:
    assert parse_attributes(prompt) == []


@pytest.mark.parametrize(
    ("value", "text"), [(1.234, "+1.23"), (-1.236, "\u22121.24"), (0.0, "0.00"), (-0.001, "0.00"), (-49, "\u221249.00")]
)
def test_a_difference_has_its_sign(value: float, text: str) -> None:
    assert format_signed(value, 2) == text


def test_what_falls_is_better_where_lower_is_better(classified: Comparison) -> None:
    accuracy, perplexity = metric_lines(classified)
    assert (accuracy.kind, perplexity.kind) == ("up", "up")
    assert (accuracy.lower_is_better, perplexity.lower_is_better) == (False, True)
    assert perplexity.baseline == perplexity.tuned
    worse = metric_lines(
        replace(classified, gains={"accuracy": classified.gains["perplexity"], "perplexity": classified.gains["accuracy"]})
    )
    assert [line.kind for line in worse] == ["down", "down"]
    assert [line.baseline for line in metric_lines(replace(classified, baseline=None))] == [None, None]
    assert [row.gain for row in classified.rows] == [100, 0, 0]
