"""Rows of token ids laid end to end: the layout in which every model here computes.

Legend: R rows, T tokens of all rows together, A position axes (two in ChatGLM-6B, one elsewhere), N scored targets.
"""

import math
import random
from collections.abc import Iterator, Sequence


def length_grouped_batches(lengths: Sequence[int], size: int, *, generator: random.Random, mega: int = 50) -> Iterator[list[int]]:
    """Shuffle row numbers into batches of `size` rows of similar length.

    Rows are shuffled, cut into mega-batches of `mega * size`, sorted by length inside each, and the batches are shuffled again: little
    padding where a step pads, and still random. The last, smaller batch keeps every row in play.
    """
    order = list(range(len(lengths)))
    generator.shuffle(order)
    batches = []
    for start in range(0, len(order), mega * size):
        chunk = sorted(order[start : start + mega * size], key=lambda index: lengths[index], reverse=True)
        batches += [chunk[i : i + size] for i in range(0, len(chunk), size)]
    generator.shuffle(batches)
    yield from batches


def shuffled_batches(count: int, size: int, *, generator: random.Random) -> Iterator[list[int]]:
    """Shuffle `count` row numbers into batches of `size` rows, whatever their lengths."""
    order = list(range(count))
    generator.shuffle(order)
    for start in range(0, count, size):
        yield order[start : start + size]


class BatchSampler:
    """The batches of a run: which rows a step takes follows from seed and step alone, so a resumed run needs to remember nothing else.

    Rows that are not grouped come as in the original: an epoch is shuffled and cut into micro-batches, a step takes as many as make `size`
    rows, and what an epoch leaves over is the beginning of the next step.

    The last `pool` rows are general ones: an epoch takes `general` of them, going round in an order that the seed decides.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        size: int,
        *,
        seed: int,
        group_by_length: bool = True,
        micro_size: int | None = None,
        pool: int = 0,
        general: int = 0,
    ) -> None:
        self.lengths = lengths
        self.size = size
        self.seed = seed
        self.group_by_length = group_by_length
        self.unit = size if group_by_length or micro_size is None or size % micro_size else micro_size
        """Rows that stay together: a micro-batch, or the batch of a step."""
        self.own = len(lengths) - pool
        """How many rows are the person's own; all of them are in every epoch."""
        self.general = general
        """How many general rows an epoch takes."""
        self.units = math.ceil((self.own + general) / self.unit)
        """How many units an epoch has."""
        self.per_step = min(size // self.unit, self.units)
        """How many units a step takes."""
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    @property
    def per_epoch(self) -> int:
        """Steps that an epoch counts as."""
        return self.units // self.per_step

    def steps(self, epochs: float) -> int:
        """The steps of a run of so many epochs."""
        return max(1, math.ceil(epochs * self.per_epoch))

    def epochs(self, step: int) -> float:
        """Times through the rows after so many steps."""
        return step * self.per_step / self.units

    def of_step(self, step: int) -> list[int]:
        """Row numbers of optimizer step `step`, counted from 1 on over all epochs; an epoch's smaller last micro-batch stands last."""
        taken = range((step - 1) * self.per_step, step * self.per_step)
        units = [self._shuffled(number // self.units)[number % self.units] for number in taken]
        units.sort(key=len, reverse=True)
        return [row for unit in units for row in unit]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        """An epoch's rows, in what stays together."""
        if self._epoch[0] != epoch:
            chance = random.Random(f"{self.seed}/{epoch}")
            rows = [*range(self.own), *self._general(epoch)]
            grouped = length_grouped_batches([self.lengths[row] for row in rows], self.unit, generator=chance)
            units = grouped if self.group_by_length else shuffled_batches(len(rows), self.unit, generator=chance)
            self._epoch = (epoch, [[rows[place] for place in unit] for unit in units])
        return self._epoch[1]

    def _general(self, epoch: int) -> list[int]:
        """The general rows of an epoch, counted from 0."""
        pool = list(range(self.own, len(self.lengths)))
        random.Random(f"{self.seed}/general").shuffle(pool)
        return [pool[(epoch * self.general + place) % len(pool)] for place in range(self.general)]


def longest_first_batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Row numbers in batches of `size`, longest rows first, so that running out of memory happens at once or never."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[i : i + size] for i in range(0, len(order), size)]
