"""Batches of row indices: shuffled, grouped by length, or longest first."""

import math
import random
from collections.abc import Iterator, Sequence
from typing import Final

MEGA_BATCH: Final = 50
"""Batches whose rows are sorted by length together."""


def length_grouped_batches(lengths: Sequence[int], size: int, *, generator: random.Random) -> Iterator[list[int]]:
    """Shuffle row indices into batches of `size` rows of similar length.

    Rows are shuffled, cut into mega-batches of `MEGA_BATCH * size`, sorted by length inside each, and the batches are shuffled again: rows
    of like length, which plain attention pads little, and still random. The last batch may be smaller, so that every row is used.
    """
    order = list(range(len(lengths)))
    generator.shuffle(order)
    batches = []
    for start in range(0, len(order), MEGA_BATCH * size):
        chunk = sorted(order[start : start + MEGA_BATCH * size], key=lambda index: lengths[index], reverse=True)
        batches += [chunk[i : i + size] for i in range(0, len(chunk), size)]
    generator.shuffle(batches)
    yield from batches


def shuffled_batches(count: int, size: int, *, generator: random.Random) -> Iterator[list[int]]:
    """Shuffle `count` row indices into batches of `size` rows, regardless of length."""
    order = list(range(count))
    generator.shuffle(order)
    for start in range(0, count, size):
        yield order[start : start + size]


class BatchSampler:
    """The batches of a run, determined by seed and step alone, so that a resumed run needs no other state.

    Without grouping, batches are made as in ChatGLM-6B's ptuning/main.py: an epoch is shuffled and split into micro-batches, a step takes
    as many as make `size` rows, and the rest of an epoch begins the first step of the next one.

    The last `num_general` rows are general rows: an epoch takes `general_per_epoch` of them in turn, in an order that the seed determines.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        size: int,
        *,
        seed: int,
        group_by_length: bool = True,
        micro_size: int | None = None,
        num_general: int = 0,
        general_per_epoch: int = 0,
    ) -> None:
        self.lengths = lengths
        self.size = size
        self.seed = seed
        self.group_by_length = group_by_length
        self.unit_rows = size if group_by_length or micro_size is None or size % micro_size else micro_size
        """Rows of a unit, which is never split: a micro-batch, or the batch of a step."""
        self.own_rows = len(lengths) - num_general
        """Number of rows that are not general; every epoch has all of them."""
        self.general_per_epoch = general_per_epoch
        """Number of general rows in an epoch."""
        self.units_per_epoch = math.ceil((self.own_rows + general_per_epoch) / self.unit_rows)
        """Number of units in an epoch."""
        self.units_per_step = min(size // self.unit_rows, self.units_per_epoch)
        """Number of units in a step."""
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch, rounded down."""
        return self.units_per_epoch // self.units_per_step

    def total_steps(self, epochs: float) -> int:
        """Optimizer steps of a run of this many epochs."""
        return max(1, math.ceil(epochs * self.steps_per_epoch))

    def epochs_at(self, step: int) -> float:
        """Epochs completed after this many steps."""
        return step * self.units_per_step / self.units_per_epoch

    def rows_until(self, step: int) -> int:
        """How many own rows are in the steps up to this one, each counted once."""
        return len({row for number in range(1, step + 1) for row in self.batch(number) if row < self.own_rows})

    def batch(self, step: int) -> list[int]:
        """Row indices of optimizer step `step`, counted from 1 over all epochs; the smaller last micro-batch of an epoch comes last."""
        numbers = range((step - 1) * self.units_per_step, step * self.units_per_step)
        units = [self._shuffled(number // self.units_per_epoch)[number % self.units_per_epoch] for number in numbers]
        units.sort(key=len, reverse=True)
        return [row for unit in units for row in unit]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        """The row indices of an epoch, by unit."""
        if self._epoch[0] != epoch:
            rng = random.Random(f"{self.seed}/{epoch}")
            rows = [*range(self.own_rows), *self._general(epoch)]
            grouped = length_grouped_batches([self.lengths[row] for row in rows], self.unit_rows, generator=rng)
            units = grouped if self.group_by_length else shuffled_batches(len(rows), self.unit_rows, generator=rng)
            self._epoch = (epoch, [[rows[index] for index in unit] for unit in units])
        return self._epoch[1]

    def _general(self, epoch: int) -> list[int]:
        """The row indices of the general rows of an epoch (counted from 0)."""
        pool = list(range(self.own_rows, len(self.lengths)))
        random.Random(f"{self.seed}/general").shuffle(pool)
        return [pool[(epoch * self.general_per_epoch + index) % len(pool)] for index in range(self.general_per_epoch)]


def longest_first_batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Row indices in batches of `size`, longest rows first: if memory runs out, it does so in the first batch."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[i : i + size] for i in range(0, len(order), size)]
