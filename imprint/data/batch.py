"""Rows of token ids laid end to end: the layout in which every model here computes.

Legend: R rows, T tokens of all rows together, A position axes (two in ChatGLM-6B, one elsewhere), N scored targets.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from imprint.errors import UserError

NOT_SCORED = -100


@dataclass(frozen=True)
class Layout:
    """Where a row's context ends, as its architecture counts."""

    context: int
    """How many leading tokens see each other in both directions; 0 in a causal model."""
    anchor: int
    """The position at which counting stops where the context ends (ChatGLM-6B: the place of [gMASK]); unused elsewhere."""


class Counting(Protocol):
    """How an architecture counts ids and positions; every network here has these three."""

    @property
    def vocabulary(self) -> int:
        """Every id is below this number."""

    def layout(self, ids: Sequence[int]) -> Layout:
        """Find a row's context."""

    def positions(self, column: Tensor, context: Tensor, anchor: Tensor) -> Tensor:
        """Positions (A, T) of tokens at `column` (T,) of rows with these contexts and anchors (T,)."""


@dataclass(frozen=True)
class Pack:
    """Tokens of several rows without padding; also one decoding step, where each row brings its newest token only."""

    ids: Tensor
    """(T,) int64 token ids."""
    positions: Tensor
    """(A, T) int64 positions for the rotary embedding."""
    row: Tensor
    """(T,) int64: the row that a token belongs to."""
    column: Tensor
    """(T,) int64: its place in that row, counted from 0 and including what a cache already holds."""
    visible: Tensor
    """(T,) int64: a token sees the first `visible` tokens of its row (and the prefix, which everybody sees)."""
    lengths: tuple[int, ...]
    """Tokens that each row brings; their sum is T."""
    targets: Tensor
    """(N,) int64: places in the pack whose next token is scored."""
    labels: Tensor
    """(N,) int64: that next token."""

    @property
    def rows(self) -> int:
        """How many rows lie in the pack."""
        return len(self.lengths)

    @property
    def target_tokens(self) -> int:
        """How many tokens are scored."""
        return self.labels.numel()

    def to(self, device: torch.device | str) -> "Pack":
        """The same pack on another device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return Pack(
            move(self.ids),
            move(self.positions),
            move(self.row),
            move(self.column),
            move(self.visible),
            self.lengths,
            move(self.targets),
            move(self.labels),
        )


def pack(rows: Sequence[Sequence[int]], counting: Counting, labels: Sequence[Sequence[int]] | None = None) -> Pack:
    """Lay rows of ids end to end.

    `labels` are aligned with the ids (-100 = not scored); the shift to "predict the next token" happens here, so the label of a row's first
    token is never used. Raises UserError for no rows, an empty row, ids outside the vocabulary, and labels of another length than the ids.
    """
    _refuse_impossible(rows, labels, counting.vocabulary)
    lengths = tuple(len(row) for row in rows)
    sizes = torch.tensor(lengths)
    row = torch.repeat_interleave(torch.arange(len(rows)), sizes)
    column = torch.arange(len(row)) - (sizes.cumsum(0) - sizes)[row]
    layouts = [counting.layout(one) for one in rows]
    context = torch.tensor([found.context for found in layouts])[row]
    anchor = torch.tensor([found.anchor for found in layouts])[row]
    ids = torch.tensor(list(chain.from_iterable(rows)), dtype=torch.long)
    targets = wanted = torch.empty(0, dtype=torch.long)
    if labels is not None:
        shifted = torch.tensor([token for one in labels for token in (*one[1:], NOT_SCORED)], dtype=torch.long)
        targets = (shifted != NOT_SCORED).nonzero()[:, 0]
        wanted = shifted[targets]
    visible = torch.where(column < context, context, column + 1)
    return Pack(ids, counting.positions(column, context, anchor), row, column, visible, lengths, targets, wanted)


def _refuse_impossible(rows: Sequence[Sequence[int]], labels: Sequence[Sequence[int]] | None, vocabulary: int) -> None:
    """Look at Python's numbers, before a device sees them: a GPU would fail as a whole."""
    aligned = f"Give one label for each id, {NOT_SCORED} where it is not scored."
    if not len(rows):
        raise UserError("ids: there is no row. Give at least one list of token ids.")
    if labels is not None and len(labels) != len(rows):
        raise UserError(f"labels: {len(labels)} rows of labels for {len(rows)} rows of ids. {aligned}")
    for number, row in enumerate(rows):
        if not len(row):
            raise UserError(f"ids[{number}]: is empty. Give at least one token id.")
        _refuse_outside(f"ids[{number}]", row, vocabulary)
        if labels is not None:
            if len(labels[number]) != len(row):
                raise UserError(f"labels[{number}]: {len(labels[number])} labels for {len(row)} ids. {aligned}")
            _refuse_outside(f"labels[{number}]", [label for label in labels[number] if label != NOT_SCORED], vocabulary)


def _refuse_outside(place: str, ids: Sequence[int], vocabulary: int) -> None:
    if len(ids) and not 0 <= min(ids) <= max(ids) < vocabulary:
        wrong = next(token for token in ids if not 0 <= token < vocabulary)
        raise UserError(f"{place}: holds {int(wrong)}, allowed are the ids 0 to {vocabulary - 1}. Encode with this model's own tokenizer.")


def grouped_by_length(lengths: Sequence[int], size: int, *, generator: random.Random, mega: int = 50) -> Iterator[list[int]]:
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


def shuffled(count: int, size: int, *, generator: random.Random) -> Iterator[list[int]]:
    """Shuffle `count` row numbers into batches of `size` rows, whatever their lengths."""
    order = list(range(count))
    generator.shuffle(order)
    for start in range(0, count, size):
        yield order[start : start + size]


class Batches:
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
            grouped = grouped_by_length([self.lengths[row] for row in rows], self.unit, generator=chance)
            units = grouped if self.group_by_length else shuffled(len(rows), self.unit, generator=chance)
            self._epoch = (epoch, [[rows[place] for place in unit] for unit in units])
        return self._epoch[1]

    def _general(self, epoch: int) -> list[int]:
        """The general rows of an epoch, counted from 0."""
        pool = list(range(self.own, len(self.lengths)))
        random.Random(f"{self.seed}/general").shuffle(pool)
        return [pool[(epoch * self.general + place) % len(pool)] for place in range(self.general)]


def sorted_by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Row numbers in batches of `size`, longest rows first, so that running out of memory happens at once or never."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[i : i + size] for i in range(0, len(order), size)]
