"""Packs filled up to the size of a graph, in one piece of memory, so that one copy brings all of a pack to the GPU.

Legend: T packed tokens, A position axes, N scored targets.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from imprint.pack import Pack


@dataclass(frozen=True)
class PackSize:
    """What is fixed in a graph."""

    tokens: int
    """T."""
    targets: int
    """N."""


@dataclass(frozen=True)
class SizedPack:
    """A pack, and the same one filled up to a size."""

    pack: Pack
    """As it is."""
    size: PackSize
    filled: Pack
    """Filled up; its tensors are parts of `memory`."""
    memory: Tensor
    """(numbers,) int64: all tensors, one behind the other."""

    @classmethod
    def of(cls, pack: Pack, size: PackSize, *, pinned: bool) -> "SizedPack":
        """Fill a pack up. `pinned`: in memory from which a GPU copies by itself."""
        filled = pack.padded(size.tokens, size.targets)
        count = (4 + len(filled.positions)) * size.tokens + 2 * size.targets + -(-size.targets // 2)
        memory = torch.empty(count, dtype=torch.long, pin_memory=pinned)
        laid_out = in_memory(memory, filled)
        for name in FIELDS:
            getattr(laid_out, name).copy_(getattr(filled, name))
        return cls(pack, size, laid_out, memory)


FIELDS = ("ids", "positions", "seq_ids", "offsets", "num_visible", "targets", "labels", "weights")
"""The tensors of a pack that has weights."""


def in_memory(memory: Tensor, like: Pack) -> Pack:
    """A pack of the same shapes, with its lengths, whose tensors are parts of this memory."""
    axes, tokens, targets = len(like.positions), like.ids.numel(), like.target_tokens
    of_tokens, of_targets = memory[: (4 + axes) * tokens], memory[(4 + axes) * tokens :]
    ids, seq_ids, offsets, num_visible = of_tokens[: 4 * tokens].view(4, tokens)
    return Pack(
        ids,
        of_tokens[4 * tokens :].view(axes, tokens),
        seq_ids,
        offsets,
        num_visible,
        like.lengths,
        of_targets[:targets],
        of_targets[targets : 2 * targets],
        of_targets[2 * targets :].view(torch.float32)[:targets],
    )
