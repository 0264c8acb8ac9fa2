import pytest

from imprint.messages import UserError
from imprint.metrics.baseline import baseline_predictions, nonblank_words

QUESTIONS = ["裙子太大了", "裤子太小了", "外套大了一号", "鞋子小了一码", "包裹还没送到", "快递送错了", "还没有寄出", "送得太慢了"]
LABELS = ["尺码"] * 4 + ["物流"] * 4


def test_it_learns_what_words_tell() -> None:
    assert baseline_predictions(QUESTIONS, LABELS, ["帽子太小了", "还没送来"]) == ["尺码", "物流"]


def test_it_says_the_same_of_the_same_rows() -> None:
    asked = ["帽子怎么样", "大了还是慢了", ""]
    assert baseline_predictions(QUESTIONS, LABELS, asked) == baseline_predictions(QUESTIONS, LABELS, asked)


def test_words_have_no_blanks() -> None:
    assert nonblank_words("红色 外套\n好看") == ["红色", "外套", "好看"]


def test_rows_of_one_label_are_refused() -> None:
    with pytest.raises(UserError, match="hold 1 labels; a classifier needs two"):
        baseline_predictions(QUESTIONS[:4], LABELS[:4], ["帽子"])
