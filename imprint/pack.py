"""Rows of token ids laid end to end: the layout in which every model here computes.

Legend: R rows, T tokens of all rows together, A position axes (two in ChatGLM-6B, one elsewhere), N scored targets.
"""

from collections.abc import Sequence
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
