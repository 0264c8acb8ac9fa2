"""What every architecture here is to the rest: ids of a pack -> hidden states, and hidden states -> logits, as two calls.

Legend: T packed tokens, A position axes, C hidden size, V vocabulary, N any rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from imprint.models.attention import Cache, Pass, Prefix
from imprint.pack import Layout, Pack
from imprint.quant.linear import QuantizedWeight


@dataclass(frozen=True)
class Shape:
    """The sizes that a cache, a prefix and a batch must know."""

    vocabulary: int
    """V: every id is below it."""
    layers: int
    """How many blocks there are, each with one attention."""
    kv_heads: int
    """Heads of keys and values; queries may have more."""
    head_size: int
    """Numbers of a key or a value in one head."""
    hidden: int
    """C."""
    longest: int
    """Tokens of the longest row that the base was made for."""


class Network(nn.Module):
    """An architecture: its subclasses have the official names of their weights and say how it counts positions."""

    transformer: nn.Module
    """Everything but the head, and in some official layouts the head: a Pass -> hidden states (T, C) after the final norm."""
    lora_targets: tuple[str, ...] = ("query_key_value",)
    """Ends of the names of the linears that make queries, keys and values: where a LoRA stands unless the recipe says otherwise."""
    tied: Mapping[str, str] = MappingProxyType({})
    """What official files store though it is another tensor: how its name begins -> how the name of that tensor begins."""
    tied_is_stored: ClassVar[bool] = True
    """Whether the files that are written hold it too, as this architecture's official ones do."""

    def __init__(self, shape: Shape, *, end_ids: frozenset[int], quantization_bit: int | None) -> None:
        super().__init__()
        self.shape = shape
        self.end_ids = end_ids
        """Ids that end an answer; `imprint.load` adds those with which the chat template ends a turn."""
        self.quantization_bit = quantization_bit
        """Bits of the blocks' weights, 8 or 4; None where they are plain numbers."""

    def forward(
        self,
        pack: Pack,
        *,
        prefix: Prefix | None = None,
        cache: Cache | None = None,
        checkpointing: bool = False,
        keep: list[Tensor] | None = None,
    ) -> Tensor:
        """Hidden states (T, C) after the final norm.

        `keep` collects the embeddings, what enters each further block and the result; `checkpointing` computes each block again in the
        backward pass instead of keeping its activations.
        """
        hidden: Tensor = self.transformer(Pass.of(pack, prefix, cache), checkpointing=checkpointing, keep=keep)
        if keep is not None:
            keep.append(hidden)
        return hidden

    @property
    def head_weight(self) -> Tensor:
        """(V, C): the vocabulary head as numbers."""
        raise NotImplementedError

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, C) -> (N, V)."""
        return functional.linear(hidden, self.head_weight)

    def layout(self, ids: Sequence[int]) -> Layout:  # noqa: ARG002 - what a causal network does not need
        """A row's context; none where every token sees only what stands before it."""
        return Layout(0, 0)

    def positions(self, column: Tensor, context: Tensor, anchor: Tensor) -> Tensor:  # noqa: ARG002
        """Positions (A, T) of tokens at `column` (T,) of rows with these contexts and anchors (T,): one axis that counts from 0."""
        return column[None]

    @property
    def projection_width(self) -> int:
        """Width of a prefix's table that goes through the two linear layers, as this architecture's own scripts have it."""
        return self.shape.hidden

    @property
    def vocabulary(self) -> int:
        """V."""
        return self.shape.vocabulary

    @property
    def dtype(self) -> torch.dtype:
        """The type in which the network computes; a quantised weight is stored in another one."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device

    @property
    def weights(self) -> int:
        """How many numbers it consists of; a quantised one counts as the number it stands for."""
        quantized = sum(layer.rows * layer.columns for layer in self.modules() if isinstance(layer, QuantizedWeight))
        return quantized + sum(parameter.numel() for parameter in self.parameters())

    def new_cache(self, rows: int, capacity: int) -> Cache:
        """An empty cache in the network's own dtype and on its device."""
        shape = self.shape
        return Cache(
            layers=shape.layers,
            rows=rows,
            capacity=capacity,
            heads=shape.kv_heads,
            head_size=shape.head_size,
            dtype=self.dtype,
            device=self.device,
        )

    def complete(self, device: torch.device) -> None:
        """Make what no file holds, on the device that the weights have just been put on."""

    def own_name(self, stored: str) -> str:
        """What the network calls a tensor that a file calls `stored`."""
        return stored


def through(blocks: nn.ModuleList, hidden: Tensor, *given: object, checkpointing: bool, keep: list[Tensor] | None) -> Tensor:
    """Hidden states (T, C) behind the blocks, each called with them and `given`; `checkpointing` and `keep` as in Network.forward."""
    for block in blocks:
        if keep is not None:
            keep.append(hidden)
        hidden = checkpoint(block, hidden, *given, use_reentrant=False) if checkpointing else block(hidden, *given)
    return hidden


def table(rows: int, columns: int) -> nn.Embedding:
    """An embedding whose numbers are still to come; nn.Embedding(...) draws some, which on the meta device costs 1.3 s of imports."""
    made: nn.Embedding = nn.Embedding.from_pretrained(torch.empty(rows, columns), freeze=False)
    return made
