"""What both reports share: the score lines, the attribute lists, the signs."""

from dataclasses import replace
from pathlib import Path

import pytest

from imprint.report.comparison import (
    Comparison,
    WinCount,
    count_messages,
    format_signed,
    metric_lines,
    parse_attributes,
    rate_lines,
    shown_message,
    tuned_warnings,
    win_counts,
)
from imprint.report.markdown import write_markdown
from imprint.report.page import write_html


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


def test_all_rows_are_counted_not_only_those_that_are_shown(comparison: Comparison, tmp_path: Path) -> None:
    """115 rows of which the first hundred are better, the last fifteen worse and word for word the same as the base's."""
    good, bad = comparison.rows[0], replace(comparison.rows[1], base="same", tuned=" same\n")
    many = replace(comparison, rows=(good,) * 100 + (bad,) * 15)
    wins = win_counts(many.rows)
    assert [one.metric for one in wins] == ["rouge-l", "rouge-1", "rouge-2", "bleu-4"]
    assert [one.rows for one in wins] == [115] * 4
    assert wins[0].better >= 100
    assert count_messages(many)[0].english == "identical answers of base and tuned model: 15 of 115 rows (13.0%)"
    shown = shown_message(many)
    assert shown is not None
    assert shown.english.startswith("The first 100 of 115 rows are shown; all 115 are counted.")
    assert shown.chinese.startswith("只显示 115 行中的前 100 行")
    write_html(many, tmp_path / "compare.html")
    write_markdown(many, tmp_path / "compare.md")
    page, markdown = ((tmp_path / name).read_text(encoding="utf-8") for name in ("compare.html", "compare.md"))
    assert page.count("<article") == 100
    assert "of 115, as near in" in page
    for text in (page, markdown):
        assert "15 of 115 rows" in text
        assert "The first 100 of 115 rows are shown" in text
        assert "115 行中有 15 行" in text


def test_wins_are_counted_for_labelled_rows_only_and_lower_may_be_better(comparison: Comparison) -> None:
    row = replace(comparison.rows[0], base_scores={"perplexity": 9.0}, tuned_scores={"perplexity": 3.0}, metric="perplexity")
    worse = replace(row, tuned_scores={"perplexity": 10.0})
    assert win_counts([row, worse, worse, replace(row, label="")]) == [WinCount("perplexity", 1, 0, 2)]
    assert win_counts([replace(row, label="")]) == []


def test_new_texts_are_counted_over_all_rows(comparison: Comparison) -> None:
    row = replace(comparison.rows[0], label="我是小墨。", base="我是小印。", tuned="我是小墨！")
    many = replace(comparison, rows=(row,) * 140 + (replace(row, tuned="我是谁？"),), fill_texts=("小墨",))
    assert count_messages(many)[0].english == "new texts: 140 of 141 rows are answered with what data.fill says, before 0"


def test_where_all_rows_are_shown_nothing_is_said(comparison: Comparison) -> None:
    assert shown_message(comparison) is None
