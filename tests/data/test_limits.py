from collections import Counter
from pathlib import Path

import pytest

from imprint.data.encode import EncodedRow
from imprint.data.limits import LengthLimits, choose_limits, chosen_note, limits_of, needed_limits, quantile
from imprint.data.section import DataSection


def row(prompt: int, answer: int) -> EncodedRow:
    return EncodedRow((1,), (1,), needed_prompt=prompt, needed_answer=answer)


ROWS = [row(10 + number, 200 - number) for number in range(100)]


def test_the_limits_leave_99_of_100_rows_whole_on_each_side() -> None:
    limits = choose_limits(DataSection(train=Path("x")), [ROWS], 2048)
    assert limits == LengthLimits(108, 199)
    assert needed_limits(ROWS) == LengthLimits(109, 200)
    assert [sum(one.needed_prompt > limits.prompt for one in ROWS), sum(one.needed_answer > limits.answer for one in ROWS)] == [1, 1]


def test_a_number_in_the_recipe_stays_whatever_the_rows_need() -> None:
    section = DataSection(train=Path("x"), max_source_length=64)
    assert choose_limits(section, [ROWS], 2048) == LengthLimits(64, 199)
    assert limits_of(section.model_copy(update={"max_target_length": 7})) == LengthLimits(64, 7)


def test_a_few_long_rows_of_another_source_are_not_cut_for_many_short_ones() -> None:
    assert choose_limits(DataSection(train=Path("x")), [ROWS * 9, [row(300, 20)]], 2048) == LengthLimits(300, 199)
    assert choose_limits(DataSection(train=Path("x")), [[]], 2048) == LengthLimits(4, 4)


def test_general_rows_all_stay_whole() -> None:
    assert choose_limits(DataSection(train=Path("x")), [ROWS], 2048, [row(5, 5)] * 999 + [row(700, 6)]) == LengthLimits(700, 199)


@pytest.mark.parametrize(
    ("needed", "fitting"),
    [((100, 100), (100, 100)), ((900, 100), (412, 100)), ((100, 900), (100, 412)), ((900, 900), (256, 256))],
)
def test_prompt_and_answer_fit_into_what_the_base_reads(needed: tuple[int, int], fitting: tuple[int, int]) -> None:
    assert LengthLimits(*needed).within(512) == LengthLimits(*fitting)


def test_a_quantile_is_a_length_that_occurs() -> None:
    assert [quantile(Counter(range(1, 101)), share) for share in (0, 0.5, 0.99, 1)] == [1, 50, 99, 100]
    assert quantile(Counter(), 0.5) == 0


def test_a_limit_that_was_given_is_not_told_as_chosen() -> None:
    section = DataSection(train=Path("x"), max_target_length=64)
    assert chosen_note(section, LengthLimits(29, 64)).english == "data.max_source_length=29: chosen from the rows"
