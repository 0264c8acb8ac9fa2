"""Sequences that are being decoded, each in a slot of one key-value cache: they join with their prompts, grow by a token a step, and leave.

Legend: B sequences in the batch, K sequences that join, V vocabulary size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from imprint.inference.decode_memory import DecodeMemory
from imprint.inference.prefill import Prefill
from imprint.inference.step_graphs import StepGraphs
from imprint.messages import Bilingual, UserError
from imprint.models.attention import NO_ADAPTER, Prefix, RowAdapters
from imprint.models.network import Network
from imprint.pack import ContextSpan, Pack, pack

DENSE_TOKENS = 96
"""Length up to which the cache of a CPU grows with its sequences: a processor reads short ones two to three times as fast where no unused
room is between them."""
SPARE_TOKENS = 3
"""Unused room of each that does not slow it."""


class Adapters(Protocol):
    """The adapters that sequences may use, by id; NO_ADAPTER uses none of them."""

    def row_adapters(self, adapter_ids: Sequence[int]) -> RowAdapters:
        """The adapters of a batch whose sequences use these."""


@dataclass(frozen=True)
class SinglePrefixAdapters:
    """One prefix, or none, for all sequences, whatever their ids; there are no names to choose by."""

    prefix: Prefix | None = None

    def acquire(self, name: str | None) -> int:
        """See NamedAdapters of decoder.py."""
        assert name is None, "only a Model has mounted adapters"
        return NO_ADAPTER

    def release(self, adapter_id: int) -> None:
        """See NamedAdapters of decoder.py."""

    def row_adapters(self, adapter_ids: Sequence[int]) -> RowAdapters:  # noqa: ARG002 - all use the same
        """See Adapters."""
        return RowAdapters(self.prefix)


class DecodeBatch:
    """Sequences in the first slots of a cache; how their tokens are chosen is up to the caller."""

    def __init__(self, network: Network, adapters: Adapters | None = None, memory: DecodeMemory | None = None) -> None:
        device = network.device
        self.network = network
        self.adapters: Adapters = adapters or SinglePrefixAdapters()
        self.memory = memory
        """Cache and captured steps of an earlier batch; None computes each step as it is."""
        self.cache = network.new_cache(0, 0) if memory is None else memory.cache
        self.graphs = None if memory is None else memory.graphs
        self.adapter_ids: list[int] = []
        """The adapter of each sequence."""
        self.lengths: list[int] = []
        """Length in tokens of each sequence."""
        self.most_tokens: list[int] = []
        """Of each sequence, the tokens that it may reach."""
        self.length_tensor, self.bidirectional_lengths, self.mask_positions = (
            torch.zeros(0, dtype=torch.long, device=device) for _ in range(3)
        )
        """The same (B,); the length of each prompt's bidirectional part; the position that all tokens after it share, [gMASK]'s (B,)."""
        self.no_targets = torch.empty(0, dtype=torch.long, device=device)
        self._row_adapters: RowAdapters | None = None
        self._loaded: RowAdapters | None = None
        """What the graphs have loaded; None after a change of the sequences."""

    @torch.inference_mode()
    def reserve(self, slots: int, capacity: int) -> None:
        """Make room for this many sequences of this many tokens."""
        if self.memory is not None:
            self.memory.reserve(slots, capacity)
            return
        slots, capacity = max(slots, self.cache.slots), max(capacity, self.cache.capacity)
        if (slots, capacity) != (self.cache.slots, self.cache.capacity):
            self.cache.resize(slots, capacity)

    @property
    def longest(self) -> int:
        """Most tokens that a sequence may reach."""
        return max(self.most_tokens, default=0)

    @torch.inference_mode()
    def shrink(self) -> None:
        """Give back the room that no sequence may need. Only with a memory."""
        assert self.memory is not None
        self.memory.shrink(len(self.lengths), self.longest)
        self._loaded = None

    def _make_room(self, most_tokens: Sequence[int], longest: int) -> None:
        """Make room for sequences that may reach so many tokens, the longest of which has so many now."""
        dense = longest <= DENSE_TOKENS and self.graphs is None and self.network.device.type == "cpu"
        self.reserve(len(most_tokens), longest + SPARE_TOKENS if dense else max(most_tokens))

    @torch.inference_mode()
    def join(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int | Sequence[int], adapter_ids: Sequence[int] | None = None
    ) -> Tensor:
        """Append sequences and run their prompts; returns the logits (K, V) of the first new token of each.

        `max_new_tokens`: the room for the answer of each, or of all; `adapter_ids`: the adapter of each, NO_ADAPTER if not given. Raises
        UserError for prompts that cannot be run; the batch is unchanged then.
        """
        spans = [self.network.context_span(prompt) for prompt in prompts]
        for prompt, span in zip(prompts, spans, strict=True):
            refuse_open_context(len(prompt), span.bidirectional_length)
        device, first, count = self.network.device, len(self.lengths), len(prompts)
        packed = pack(prompts, self.network).to(device)
        longest = max(packed.lengths)
        new_tokens = [max_new_tokens] * count if isinstance(max_new_tokens, int) else max_new_tokens
        most_tokens = [*self.most_tokens, *map(sum, zip(packed.lengths, new_tokens, strict=True))]
        self._make_room(most_tokens, longest)
        adapter_ids = [NO_ADAPTER] * count if adapter_ids is None else adapter_ids
        adapters = self.adapters.row_adapters(adapter_ids)
        cache = self.cache.view(first, count, longest)
        hidden = self.network(packed, adapters=adapters, cache=cache)
        self._append(packed.lengths, spans, adapter_ids, most_tokens)
        return self.network.logits(hidden[torch.tensor(packed.lengths, device=device).cumsum(0) - 1])

    @torch.inference_mode()
    def join_prefilled(self, prefill: Prefill, max_new_tokens: int) -> None:
        """Append the sequence of a prompt that has been run in parts."""
        slot = len(self.lengths)
        most_tokens = [*self.most_tokens, prefill.length + max_new_tokens]
        self._make_room(most_tokens, prefill.length)
        self.cache.put(slot, prefill.cache, prefill.length)
        self._append([prefill.length], [prefill.span], [prefill.adapter_id], most_tokens)

    def _append(self, lengths: Sequence[int], spans: Sequence[ContextSpan], adapter_ids: Sequence[int], most_tokens: list[int]) -> None:
        """Note what joined; `most_tokens`: of all sequences now."""

        def appended(tensor: Tensor, values: Sequence[int]) -> Tensor:
            return torch.cat((tensor, torch.tensor(values, dtype=torch.long, device=tensor.device)))

        self.length_tensor = appended(self.length_tensor, lengths)
        self.bidirectional_lengths = appended(self.bidirectional_lengths, [span.bidirectional_length for span in spans])
        self.mask_positions = appended(self.mask_positions, [span.mask_position for span in spans])
        self.lengths += lengths
        self.adapter_ids += adapter_ids
        self.most_tokens = most_tokens
        self._row_adapters = self._loaded = None

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Append one token to each sequence (B,); returns logits (B, V) of the next one, which the step after it may overwrite."""
        adapters = self._row_adapters or self.adapters.row_adapters(self.adapter_ids)
        self._row_adapters = None if adapters.loras is None else adapters  # without an id, they depend on the network's state
        logits = None if self.graphs is None else self._replay(self.graphs, tokens, adapters)
        if logits is None:
            logits = self._compute(tokens, adapters)
        self.length_tensor = self.length_tensor + 1
        self.lengths = [length + 1 for length in self.lengths]
        return logits

    def _replay(self, graphs: StepGraphs, tokens: Tensor, adapters: RowAdapters) -> Tensor | None:
        """The step as a graph; None where there is none."""
        if self._loaded is not adapters:
            graphs.load(adapters, self.length_tensor, self.bidirectional_lengths, self.mask_positions)
            self._loaded = adapters
        logits = graphs.step(tokens)
        if logits is None:
            self._loaded = None
        return logits

    def _compute(self, tokens: Tensor, adapters: RowAdapters) -> Tensor:
        """The step as it is."""
        count, longest = len(tokens), max(self.lengths) + 1
        if longest > self.cache.capacity:
            self._make_room(self.most_tokens, longest)
        seq_ids = torch.arange(count, device=tokens.device)
        positions = self.network.positions(self.length_tensor, self.bidirectional_lengths, self.mask_positions)
        step = Pack(tokens, positions, seq_ids, self.length_tensor, self.length_tensor + 1, (1,) * count, self.no_targets, self.no_targets)
        cache = self.cache.view(0, count, longest)
        return self.network.logits(self.network(step, adapters=adapters, cache=cache))

    @torch.inference_mode()
    def remove(self, rows: Sequence[int], *, clear: Sequence[int] = ()) -> list[int]:
        """Drop sequences; the last ones move into their slots. Returns where each remaining sequence was.

        The slots of `clear` are zeroed, because values that are not finite would reach the next sequence there, masked or not.
        """
        for row in clear:
            self.cache.clear(row)
        remaining = len(self.lengths) - len(rows)
        movers = iter(row for row in range(remaining, len(self.lengths)) if row not in rows)
        order = [next(movers) if row in rows else row for row in range(remaining)]
        for target, source in enumerate(order):
            if source != target:
                self.cache.move(source, target, self.lengths[source])
        self._take(order, torch.tensor(order, dtype=torch.long, device=self.length_tensor.device))
        return order

    @torch.inference_mode()
    def select(self, rows: Tensor) -> None:
        """Keep these sequences only, in this order; one may be repeated (beams)."""
        self.reserve(len(rows), self.cache.capacity)
        self.cache.select(rows)
        self._take(rows.tolist(), rows)

    def _take(self, order: list[int], rows: Tensor) -> None:
        self.lengths, self.adapter_ids = [self.lengths[row] for row in order], [self.adapter_ids[row] for row in order]
        self.most_tokens = [self.most_tokens[row] for row in order]
        self.length_tensor, self.bidirectional_lengths = self.length_tensor[rows], self.bidirectional_lengths[rows]
        self.mask_positions = self.mask_positions[rows]
        self._row_adapters = self._loaded = None


def refuse_open_context(length: int, bidirectional_length: int) -> None:
    """Raise UserError for a prompt of a prefix language model without the token after which its answer begins."""
    if bidirectional_length == length > 0:
        raise UserError(
            Bilingual(
                f"a prompt of {length} ids has no <sop>, after which the answer begins. Append [gMASK] and <sop>.",
                f"一个 {length} 个 id 的提示没有 <sop>，回答从它之后开始：请在末尾加上 [gMASK] 和 <sop>。",
            )
        )
