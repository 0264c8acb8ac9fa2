"""What the attention of every layer gets in a forward pass, and the backends that compute it.

Legend: T packed tokens, B sequences, P prefix length, H query heads, G heads of keys and values (fewer where query heads share them), D
head size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor

from imprint.models.cache import KVCache
from imprint.models.pending import values
from imprint.pack import Pack

L = TypeVar("L")
NO_ADAPTER = -1
"""In place of the number of an adapter: none of them is used."""
Prefix = list[tuple[Tensor, Tensor]]
"""One (keys, values) pair per layer, each (P, G, D), shared by all sequences without copies."""


@dataclass(frozen=True)
class PrefixRanges:
    """Where the prefix of each sequence stands among the keys of all prefixes."""

    begins: Tensor
    """(B,) int64 index of its first key."""
    lengths: Tensor
    """(B,) int64 number of its keys, 0 where a sequence has none."""
    order: Tensor
    """(B,) int64 the sequences, those that use the same prefix beside each other."""

    @classmethod
    def of(cls, keys: int, masked: Tensor | None, rows: int, device: torch.device) -> "PrefixRanges":
        """The ranges of a batch of `rows` sequences; `keys` is P and `masked` the `prefix_masked` of RowAdapters."""
        if masked is None:
            begins = torch.zeros(rows, dtype=torch.long, device=device)
            return cls(begins, torch.full_like(begins, keys), torch.arange(rows, device=device))
        lengths = (~masked).sum(1)
        begins = (~masked).byte().argmax(1)
        return cls(begins, lengths, torch.where(lengths > 0, begins, keys).argsort())

    def masked(self, keys: int) -> Tensor:
        """(B, P) True where a sequence does not attend to a key."""
        positions = torch.arange(keys, device=self.begins.device)
        return (positions < self.begins[:, None]) | (positions >= (self.begins + self.lengths)[:, None])


@dataclass(frozen=True)
class RowAdapters:
    """The adapters of a batch, and which of them each sequence uses."""

    prefix: Prefix | None = None
    """Keys and values of all prefixes, one after another."""
    prefix_masked: Tensor | None = None
    """(B, P) True where a sequence does not attend to a key of the prefixes; None where all attend to all. The keys of a sequence are
    neighbours."""
    prefix_offsets: Tensor | None = None
    """(P,) distance of each key from the start of the sequences, below 0; None for -P ... -1. Those of a sequence end with -1."""
    loras: Tensor | int | None = None
    """(B,) number of each sequence's mounted LoRA, or one for all, -1 for none; None for the LoRA that is on in the network now."""
    ranges: PrefixRanges | None = None
    """In place of `prefix_masked`: tensors that stay where they are while their content changes."""

    @property
    def prefix_length(self) -> int:
        """P."""
        return 0 if self.prefix is None else len(self.prefix[0][0])

    def masked(self) -> Tensor | None:
        """`prefix_masked`, or what the ranges say."""
        return self.prefix_masked if self.ranges is None else self.ranges.masked(self.prefix_length)

    def prefix_ranges(self, rows: int, device: torch.device) -> PrefixRanges:
        """`ranges`, or what `prefix_masked` says for a batch of this many sequences."""
        return self.ranges or PrefixRanges.of(self.prefix_length, self.prefix_masked, rows, device)


@dataclass(frozen=True)
class ForwardContext:
    """The inputs of every attention in one forward pass."""

    pack: Pack
    backends: "Sequence[AttentionBackend]"
    """In order of preference; the last one supports every pass."""
    adapters: RowAdapters = RowAdapters()
    cache: KVCache | None = None
    """Keys and values of the tokens before the pack's, whose sequence i is in slot i."""
    _layouts: dict[object, object] = field(default_factory=dict, repr=False, compare=False)

    def layout(self, make: "Callable[[ForwardContext], L]") -> L:
        """What `make` derives from the context: computed once for the layers of a pass."""
        if make not in self._layouts:
            self._layouts[make] = make(self)
        return cast("L", self._layouts[make])

    @cached_property
    def backend(self) -> "AttentionBackend":
        """The first backend that supports this forward pass."""
        return next(backend for backend in self.backends if backend.supports(self))

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, score_scale: float = 1.0, slopes: Tensor | None = None
    ) -> Tensor:
        """Attention of layer `layer` (from 0): query (T, H, D), key and value (T, G, D) -> (T, H, D).

        With a cache, keys and values are written to it and attention reads all that it holds. `score_scale` divides the queries and
        multiplies their scores back, which changes no result; `slopes`: see `reference_attention.attend`.
        """
        if not self.backend.rotates:
            query, key = values((query, key))
        return self.backend.attend(layer, query, key, value, self, score_scale=score_scale, slopes=slopes)


class AttentionBackend(Protocol):
    """One way to compute attention."""

    rotates: bool
    """Whether it takes queries and keys that are not rotated yet (`rotary.PendingRotation`)."""

    def supports(self, context: ForwardContext) -> bool:
        """Whether this backend computes a forward pass of this kind here, with the result of ReferenceAttention up to rounding."""

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        context: ForwardContext,
        *,
        score_scale: float,
        slopes: Tensor | None,
    ) -> Tensor:
        """See ForwardContext.attend."""
