"""A fast random number generator, reproducible on every machine and Python version."""

import random
from collections.abc import Sequence
from typing import Final, TypeVar
from zlib import crc32

T = TypeVar("T")
TABLE_SIZE: Final = 40
"""Entries in a skewed table; bounds how rare an option can be."""


class Rng:
    """A seeded random number generator; uses only `Random.random`, which is stable across Python versions."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed).random

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, uniformly."""
        return options[int(self.random() * len(options))]

    def chance(self, probability: float) -> bool:
        """True with this probability (0 to 1)."""
        return self.random() < probability

    def below(self, limit: int) -> int:
        """An integer from 0 to limit - 1, uniformly."""
        return int(self.random() * limit)

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """The options in a random order."""
        mixed = list(options)
        for last in range(len(mixed) - 1, 0, -1):
            other = int(self.random() * (last + 1))
            mixed[last], mixed[other] = mixed[other], mixed[last]
        return mixed


def skewed(options: Sequence[T], ratio: float) -> tuple[T, ...]:
    """A table to `pick` from: each option occurs `ratio` (0 to 1) times as often as the one before it, and at least once."""
    weights = [ratio**index for index in range(len(options))]
    counts = [max(1, round(TABLE_SIZE * weight / sum(weights))) for weight in weights]
    return weighted(list(zip(options, counts, strict=True)))


def weighted(options: Sequence[tuple[T, int]]) -> tuple[T, ...]:
    """A table to `pick` from: each option occurs as often as its count."""
    return tuple(option for option, count in options for _ in range(count))


def one_in(times: int, text: str) -> bool:
    """True for about one in `times` texts, decided by a hash of the text; selects what is held out."""
    return crc32(text.encode()) % times == 0
