"""What a mean hides is counted."""

import pytest

from imprint.metrics.rates import FailureRates, copied_share, failure_rates, failure_warnings, repeated_share


def test_a_copy_is_found_behind_whitespace_and_the_width_of_punctuation() -> None:
    known = ["这件上衣，真好看！", "裙子。", ""]

    assert copied_share(["这件 上衣,真好看!\n", "裙子.", "裤子。", ""], known) == 0.5


def test_a_text_that_goes_round_in_circles_is_counted() -> None:
    circles = "好看的裙子" * 4
    once = "好看的裙子，好看的裤子，好看的上衣"

    assert repeated_share([circles, once]) == 0.5
    assert repeated_share(["哈哈哈哈哈哈哈", "哈哈哈哈哈哈", "", "短"]) == 0.25


def test_rates_are_shares_of_the_answers() -> None:
    found = failure_rates(["", "好看的裙子" * 4, "好", "好"], unfinished=1)

    assert found == FailureRates(empty=0.25, repeated=0.25, unfinished=0.25)
    assert failure_rates(["好"], unfinished=None).unfinished is None


@pytest.mark.parametrize(
    ("rates", "sentence", "chinese"),
    [
        (
            FailureRates(0.06, 0, 0),
            "6% of the answers are empty: the model ends at once. Look for rows without an answer",
            "6% 的回答是空的",
        ),
        (FailureRates(0, 0.21, 0), "21% of the answers repeat themselves. Try a lower optimizer.learning_rate", "21% 的回答在重复自己"),
        (FailureRates(0, 0, 0.5), "50% of the answers never stop: their limit ended them. Where the references", "50% 的回答停不下来"),
    ],
)
def test_too_many_bad_answers_are_a_warning_that_says_what_to_do(rates: FailureRates, sentence: str, chinese: str) -> None:
    (warned,) = failure_warnings(rates)

    assert warned.english.startswith(sentence)
    assert warned.chinese.startswith(chinese)
    assert len(failure_warnings(FailureRates(1, 1, 1))) == 3


@pytest.mark.parametrize("rates", [FailureRates(0, 0, 0), FailureRates(0.05, 0.2, 0.2), FailureRates(0.01, 0.1, None)])
def test_a_few_bad_answers_are_no_warning(rates: FailureRates) -> None:
    assert failure_warnings(rates) == []
