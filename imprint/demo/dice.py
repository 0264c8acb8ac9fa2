"""Random choices that are the same on every machine and Python version, and quick."""

import random
from collections.abc import Sequence
from typing import Final, TypeVar
from zlib import crc32

T = TypeVar("T")
TABLE: Final = 40
"""Entries in a skewed table: no choice is rarer than one in about so many."""


class Dice:
    """A stream of choices that its seed decides; only `Random.random`, which Python keeps stable, is used."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed).random

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, each as probable as the next."""
        return options[int(self.random() * len(options))]

    def chance(self, share: float) -> bool:
        """True in this share (0 to 1) of all cases."""
        return self.random() < share

    def below(self, limit: int) -> int:
        """A whole number from 0 to limit - 1."""
        return int(self.random() * limit)

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """The options in a random order."""
        mixed = list(options)
        for last in range(len(mixed) - 1, 0, -1):
            other = int(self.random() * (last + 1))
            mixed[last], mixed[other] = mixed[other], mixed[last]
        return mixed


def skewed(options: Sequence[T], ratio: float) -> tuple[T, ...]:
    """A table to `pick` from, in which each option stands `ratio` (0 to 1) times as often as the one before it, and at least once."""
    weights = [ratio**place for place in range(len(options))]
    times = [max(1, round(TABLE * weight / sum(weights))) for weight in weights]
    return weighted(list(zip(options, times, strict=True)))


def weighted(options: Sequence[tuple[T, int]]) -> tuple[T, ...]:
    """A table to `pick` from, in which each option stands as often as its number says."""
    return tuple(option for option, times in options for _ in range(times))


def one_in(times: int, text: str) -> bool:
    """True for about one in so many texts, always the same ones; decides what is held out."""
    return crc32(text.encode()) % times == 0
