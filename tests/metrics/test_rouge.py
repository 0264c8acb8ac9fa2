"""ROUGE of two packages, worked out by hand where they differ."""

import pytest

from imprint.metrics.rouge import chinese_rouge, plain_rouge


def test_they_agree_on_one_sentence_of_different_words() -> None:
    prediction, wanted = ["黑色", "上衣", "好看"], ["白色", "上衣", "很", "好看"]

    assert plain_rouge(prediction, wanted) == pytest.approx(chinese_rouge(prediction, wanted))
    assert plain_rouge(prediction, wanted) == pytest.approx((4 / 7, 0.0, 4 / 7), abs=1e-6)


def test_words_said_twice_count_once_in_the_plain_rouge_l() -> None:
    prediction, wanted = ["好", "好", "好", "看"], ["好", "看"]

    assert chinese_rouge(prediction, wanted)[2] == pytest.approx(2 * 2 / (4 + 2), abs=1e-6)
    assert plain_rouge(prediction, wanted)[2] == pytest.approx(1.0, abs=1e-6)


def test_a_full_stop_ends_a_sentence_of_the_plain_rouge_and_is_no_word() -> None:
    # Sentences a b | c and c | a b: in one sequence two words are in order, sentence by sentence all three.
    prediction, wanted = ["a", "b", ".", "c"], ["c", ".", "a", "b"]

    assert plain_rouge(prediction, wanted)[2] == pytest.approx(1.0, abs=1e-6)
    assert chinese_rouge(prediction, wanted)[2] == pytest.approx(0.5, abs=1e-6)
    assert plain_rouge(["3.5"], ["3", "5"])[0] == pytest.approx(1.0, abs=1e-6)


def test_of_two_longest_subsequences_the_one_from_the_end_is_taken() -> None:
    # 甲乙 against 乙甲: either word alone is longest; walking back from the end, the last of what was said is left first.
    assert plain_rouge(["乙", "甲"], ["甲", "乙"])[2] == pytest.approx(0.5, abs=1e-6)
    # 甲甲乙 against 乙甲: 甲 is common in one walk only, but both walks are one word long.
    assert plain_rouge(["乙", "甲"], ["甲", "甲", "乙"])[2] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("nothing", [["."], ["..."], []])
def test_nothing_but_full_stops_scores_nothing(nothing: list[str]) -> None:
    assert plain_rouge(nothing, ["好"]) == (0.0, 0.0, 0.0)
    assert plain_rouge(["好"], nothing) == (0.0, 0.0, 0.0)
