from collections.abc import Iterable

from imprint.check.lengths import Lengths, cost, histogram, summary
from imprint.messages import Bilingual
from imprint.terminal import Style, width

PLAIN = Style(coloured=False)
ANSWERS = Bilingual("answers", "回答")


def lengths(values: Iterable[int], limit: int = 64) -> Lengths:
    result = Lengths(limit)
    for value in values:
        result.add(value)
        result.lose(max(value - limit, 0))
    return result


def test_quantiles_are_lengths_that_occur() -> None:
    result = lengths(range(1, 101))
    assert [result.quantile(share) for share in (0, 0.5, 0.9, 0.99, 1)] == [1, 50, 90, 99, 100]
    assert summary(result, "limit 上限") == f"median 中位 50 · p90 90 · p99 99 · max 最长 100 · limit 上限 {result.limit}"


def test_the_limit_for_one_percent_cuts_one_percent_and_none_smaller_does() -> None:
    values = [20] * 985 + list(range(30, 45))
    limit = lengths(values).limit_for(0.01)
    assert sum(value > limit for value in values) <= 10 < sum(value > limit - 1 for value in values)


def test_the_limit_for_nothing_is_the_longest_and_never_below_what_a_recipe_takes() -> None:
    assert lengths([5, 9, 7]).limit_for(0) == 9
    assert lengths([2, 2]).limit_for(0.01) == 4


def test_what_a_limit_costs_is_said_in_rows_and_tokens() -> None:
    assert cost(lengths([10, 70, 80]), ANSWERS) == Bilingual(
        "2 of 3 answers are cut (66.7 %): 22 tokens lost, 11.0 each", "3 条回答中有 2 条被截断（66.7 %），共丢 22 个词元，平均每条 11.0 个"
    )
    assert cost(lengths([64]), ANSWERS) == Bilingual("none of 1 answers is cut", "1 条回答均未截断")


def test_a_histogram_counts_every_row_once_and_shows_what_is_cut() -> None:
    lines = histogram(lengths([*range(40, 90), 5000]), PLAIN)
    counts = [int(line.partition("│")[2].replace("█", "").replace("░", "").split("◂")[0].strip(" ▏▎▍▌▋▊▉")) for line in lines]
    assert sum(counts) == 51
    assert len(lines) <= 13
    (marked,) = [line for line in lines if "◂" in line]
    low, high = map(int, marked.partition("│")[0].split("–"))
    assert low <= 64 <= high
    assert "░" not in "".join(lines[: lines.index(marked)])
    assert "█" not in "".join(lines[lines.index(marked) + 1 :])


def test_bars_start_and_end_in_the_same_columns() -> None:
    lines = histogram(lengths([3, 30, 300, 31, 32]), PLAIN)
    assert len({width(line.partition("◂")[0].rstrip()) for line in lines}) == 1


def test_one_length_is_a_histogram_too() -> None:
    assert histogram(lengths([7] * 5), PLAIN) == ["7 │" + "█" * 40 + " 5"]
