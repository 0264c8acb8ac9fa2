"""Packed batches: sequences of token ids laid end to end without padding, the input of every network here.

Legend: R sequences ("rows" in messages), T tokens of all of them, A position axes (two in ChatGLM-6B, one elsewhere), N scored targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from imprint.messages import Bilingual, UserError

IGNORE_INDEX = -100
"""Label of a token that is not scored."""


@dataclass(frozen=True)
class ContextSpan:
    """The bidirectional part of a sequence, which GLM calls its context, and the position of all tokens after it."""

    bidirectional_length: int
    """Number of leading tokens that attend to each other in both directions; 0 in a causal model."""
    mask_position: int
    """Position that all tokens after that part share (ChatGLM-6B: that of [gMASK]); unused elsewhere."""


class PositionScheme(Protocol):
    """How an architecture defines bidirectional parts and positions; every Network implements it."""

    @property
    def vocab_size(self) -> int:
        """Vocabulary size; ids are below it."""

    def context_span(self, ids: Sequence[int]) -> ContextSpan:
        """The bidirectional part of a sequence."""

    def positions(self, offsets: Tensor, bidirectional_lengths: Tensor, mask_position: Tensor) -> Tensor:
        """Positions (A, T) of tokens at `offsets` (T,) in sequences with these bidirectional lengths and mask positions (T,)."""


@dataclass(frozen=True)
class Pack:
    """Tokens of several sequences without padding; also one decoding step, with the newest token of each sequence only."""

    ids: Tensor
    """(T,) int64 token ids."""
    positions: Tensor
    """(A, T) int64 positions for the rotary embedding."""
    seq_ids: Tensor
    """(T,) int64 index of the sequence that a token belongs to."""
    offsets: Tensor
    """(T,) int64 index of a token in its sequence, including the tokens that a cache already holds."""
    num_visible: Tensor
    """(T,) int64: a token attends to the first `num_visible` tokens of its sequence (and to the prefix, which all tokens see)."""
    lengths: tuple[int, ...]
    """Tokens of each sequence in this pack; their sum is T."""
    targets: Tensor
    """(N,) int64 indices in the pack whose next token is scored."""
    labels: Tensor
    """(N,) int64 ids of those next tokens."""
    weights: Tensor | None = None
    """(N,) fp32 factors of the targets' losses; None for 1."""
    is_start: bool = False
    """Whether no sequence has earlier tokens in a cache."""

    @property
    def num_seqs(self) -> int:
        """R."""
        return len(self.lengths)

    @property
    def target_tokens(self) -> int:
        """N."""
        return self.labels.numel()

    def padded(self, tokens: int, targets: int) -> "Pack":
        """The same pack with `tokens` in all, the further ones in rows of one, and `targets` in all, the further ones of weight 0."""
        more, weightless = tokens - self.ids.numel(), targets - self.target_tokens
        weights = torch.ones(self.target_tokens, device=self.ids.device) if self.weights is None else self.weights

        def fill(tensor: Tensor, count: int, value: int = 0) -> Tensor:
            return torch.cat((tensor, tensor.new_full((*tensor.shape[:-1], count), value)), -1)

        return Pack(
            fill(self.ids, more),
            fill(self.positions, more),
            torch.cat((self.seq_ids, torch.arange(self.num_seqs, self.num_seqs + more, device=self.seq_ids.device))),
            fill(self.offsets, more),
            fill(self.num_visible, more, 1),
            (*self.lengths, *[1] * more),
            fill(self.targets, weightless),
            fill(self.labels, weightless),
            fill(weights, weightless),
            self.is_start,
        )

    def to(self, device: torch.device | str) -> "Pack":
        """The same pack on another device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return Pack(
            move(self.ids),
            move(self.positions),
            move(self.seq_ids),
            move(self.offsets),
            move(self.num_visible),
            self.lengths,
            move(self.targets),
            move(self.labels),
            None if self.weights is None else move(self.weights),
            self.is_start,
        )


def pack(
    rows: Sequence[Sequence[int]],
    scheme: PositionScheme,
    labels: Sequence[Sequence[int]] | None = None,
    weights: Sequence[float] | None = None,
) -> Pack:
    """Pack rows of ids.

    `labels` are aligned with the ids (-100 = not scored); the shift to "predict the next token" happens here, so the label of a row's first
    token is never used, and the tokens behind the last that predicts a scored one are left out. `weights`: a factor of each row's losses, 1
    if not given. Raises UserError for no rows, an empty row, ids outside the vocabulary, and labels of another length than the ids.
    """
    _validate(rows, labels, scheme.vocab_size)
    spans = [scheme.context_span(row) for row in rows]
    lengths = tuple(map(len, rows) if labels is None else map(_predicting, labels, spans))
    length_tensor = torch.tensor(lengths)
    seq_ids = torch.repeat_interleave(torch.arange(len(rows)), length_tensor)
    offsets = torch.arange(len(seq_ids)) - (length_tensor.cumsum(0) - length_tensor)[seq_ids]
    bidirectional_lengths = torch.tensor([span.bidirectional_length for span in spans])[seq_ids]
    mask_position = torch.tensor([span.mask_position for span in spans])[seq_ids]
    ids = torch.tensor([token for row, length in zip(rows, lengths, strict=True) for token in row[:length]], dtype=torch.long)
    targets = target_labels = torch.empty(0, dtype=torch.long)
    if labels is not None:
        following = (label for row, length in zip(labels, lengths, strict=True) for label in (*row[1:], IGNORE_INDEX)[:length])
        shifted = torch.tensor(list(following), dtype=torch.long)
        targets = (shifted != IGNORE_INDEX).nonzero()[:, 0]
        target_labels = shifted[targets]
    num_visible = torch.where(offsets < bidirectional_lengths, bidirectional_lengths, offsets + 1)
    positions = scheme.positions(offsets, bidirectional_lengths, mask_position)
    of_targets = None if weights is None else torch.tensor(weights, dtype=torch.float32)[seq_ids[targets]]
    return Pack(ids, positions, seq_ids, offsets, num_visible, lengths, targets, target_labels, of_targets, is_start=True)


def _predicting(labels: Sequence[int], span: ContextSpan) -> int:
    """Length of a row without the tokens behind the last that predicts a scored one; those of a bidirectional part are seen by others."""
    last = next((index for index in range(len(labels) - 1, 0, -1) if labels[index] != IGNORE_INDEX), 1)
    return min(len(labels), max(last, span.bidirectional_length))


def _validate(rows: Sequence[Sequence[int]], labels: Sequence[Sequence[int]] | None, vocab_size: int) -> None:
    """Check the ids as Python integers, since one out of range makes a GPU unusable."""
    if not len(rows):
        raise UserError(Bilingual("ids: there is no row. Give at least one list of token ids.", "ids 没有任何行：请至少给出一个 id 列表。"))
    if labels is not None and len(labels) != len(rows):
        raise _not_aligned(
            "labels", f"{len(labels)} rows of labels for {len(rows)} rows of ids", f"{len(labels)} 行标签对应 {len(rows)} 行 id"
        )
    for index, row in enumerate(rows):
        if not len(row):
            raise UserError(Bilingual(f"ids[{index}]: is empty. Give at least one token id.", f"ids[{index}] 为空：请至少给出一个 id。"))
        _check_range(f"ids[{index}]", row, vocab_size)
        if labels is not None:
            if len(labels[index]) != len(row):
                count = len(labels[index])
                raise _not_aligned(f"labels[{index}]", f"{count} labels for {len(row)} ids", f"{count} 个标签对应 {len(row)} 个 id")
            _check_range(f"labels[{index}]", [label for label in labels[index] if label != IGNORE_INDEX], vocab_size)


def _not_aligned(name: str, english: str, chinese: str) -> UserError:
    return UserError(
        Bilingual(
            f"{name}: {english}. Give one label for each id, {IGNORE_INDEX} where it is not scored.",
            f"{name}：{chinese}。每个 id 要有一个标签，不计分处为 {IGNORE_INDEX}。",
        )
    )


def _check_range(name: str, ids: Sequence[int], vocab_size: int) -> None:
    if len(ids) and not 0 <= min(ids) <= max(ids) < vocab_size:
        wrong = next(token for token in ids if not 0 <= token < vocab_size)
        raise UserError(
            Bilingual(
                f"{name}: holds {int(wrong)}, allowed are the ids 0 to {vocab_size - 1}. Encode with this model's own tokenizer.",
                f"{name} 含有 {int(wrong)}，允许的 id 为 0 到 {vocab_size - 1}：请用该模型自己的分词器编码。",
            )
        )
