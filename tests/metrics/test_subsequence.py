"""The longest common subsequence is that of the packages' own table and walk, for any two lists of words."""

import random

import pytest
from rouge_chinese import rouge_score

from imprint.metrics import subsequence
from imprint.metrics.subsequence import common_length, common_words
from tests.bounded import cpu_time


def package_words(first: list[str], second: list[str]) -> set[str]:
    """The distinct words of the walk of the packages, which both have."""
    return {word[0] if isinstance(word, tuple) else word for word in rouge_score._recon_lcs(first, second)._ngrams}


def random_pair(rng: random.Random, longest: int, letters: int) -> tuple[list[str], list[str]]:
    """Two lists of up to `longest` words out of `letters`; half of the second ones are the first with some words replaced."""
    first = [f"w{rng.randrange(letters)}" for _ in range(rng.randrange(longest + 1))]
    if rng.random() < 0.5:
        return first, [word if rng.random() < 0.7 else f"w{rng.randrange(letters)}" for word in first]
    return first, [f"w{rng.randrange(letters)}" for _ in range(rng.randrange(longest + 1))]


@pytest.mark.parametrize("letters", [1, 2, 3, 5, 20])
def test_length_and_words_equal_those_of_the_package(letters: int) -> None:
    rng = random.Random(letters)
    for _ in range(600):
        first, second = random_pair(rng, 14, letters)
        assert common_length(first, second) == rouge_score._len_lcs(first, second)
        assert common_words(first, second) == package_words(first, second)


def test_rows_that_are_computed_again_give_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subsequence, "MAX_WORDS_IN_FULL", 3)
    monkeypatch.setattr(subsequence, "MAX_UNCACHED_POSITIONS", 1)
    rng = random.Random(7)
    for letters in (1, 2, 3, 9):
        for _ in range(300):
            first, second = random_pair(rng, 30, letters)
            assert common_words(first, second) == package_words(first, second)


def test_two_texts_of_five_thousand_words_take_less_than_a_second() -> None:
    rng = random.Random(1)
    first, second = ([f"w{rng.randrange(500)}" for _ in range(5000)] for _ in range(2))

    with cpu_time(at_most=20):
        words = common_words(first, second)

        assert words
        assert common_length(first, second) >= len(words)
