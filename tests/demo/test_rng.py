from collections import Counter

from imprint.demo.rng import Rng, one_in, skewed, weighted


def test_the_same_seed_makes_the_same_choices() -> None:
    assert [Rng(7).below(1000) for _ in range(5)] == [Rng(7).below(1000)] * 5
    rng = Rng(7)
    assert [rng.below(1000) for _ in range(4)] == [323, 150, 650, 72]


def test_a_skewed_table_falls_and_forgets_nothing() -> None:
    counts = Counter(skewed(["a", "b", "c", "d", "e", "f"], 0.4))
    assert list(counts) == ["a", "b", "c", "d", "e", "f"]
    assert counts["a"] > counts["b"] > counts["c"] > 0
    assert counts["f"] == 1


def test_a_weighted_table_holds_each_option_as_often_as_told() -> None:
    assert weighted([("x", 2), ("y", 1)]) == ("x", "x", "y")


def test_shuffling_keeps_every_option() -> None:
    assert sorted(Rng(1).shuffled("abcdef")) == list("abcdef")


def test_about_one_in_so_many_texts_is_held_out() -> None:
    assert 15 <= sum(one_in(40, f"text {number}") for number in range(1000)) <= 35
