"""A batch of sequences that are being decoded: prefill, decoding steps, and removal of finished sequences.

Legend: B sequences in the batch, V vocabulary size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from imprint.messages import Bilingual, UserError
from imprint.models.attention import KVCache, Prefix
from imprint.models.network import Network
from imprint.pack import Pack, pack


class DecodeBatch:
    """Sequences with a common key-value cache; how their tokens are chosen is up to the caller."""

    def __init__(self, network: Network, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        device = network.device
        spans = [network.context_span(prompt) for prompt in prompts]
        for prompt, span in zip(prompts, spans, strict=True):
            if span.bidirectional_length == len(prompt) > 0:
                raise UserError(
                    Bilingual(
                        f"a prompt of {len(prompt)} ids has no <sop>, after which the answer begins. Append [gMASK] and <sop>.",
                        f"一个 {len(prompt)} 个 id 的提示没有 <sop>，回答从它之后开始：请在末尾加上 [gMASK] 和 <sop>。",
                    )
                )
        self.cache: KVCache = network.new_cache(len(prompts), max(map(len, prompts)) + max_new_tokens)
        self.prompts = pack(prompts, network).to(device)
        self.lengths = torch.tensor(self.prompts.lengths, device=device)
        self.context = torch.tensor([span.bidirectional_length for span in spans], device=device)
        self.mask_position = torch.tensor([span.mask_position for span in spans], device=device)
        self.no_targets = torch.empty(0, dtype=torch.long, device=device)

    def prefill(self, network: Network, prefix: Prefix | None) -> Tensor:
        """Run the prompts and fill the cache; returns logits (B, V) of the first new token of each."""
        self.cache.length = int(self.lengths.max())
        hidden = network(self.prompts, prefix=prefix, cache=self.cache)
        return network.logits(hidden[self.lengths.cumsum(0) - 1])

    def step(self, network: Network, prefix: Prefix | None, tokens: Tensor) -> Tensor:
        """Append one token to each sequence (B,); returns logits (B, V) of the next one."""
        count = len(tokens)
        seq_ids = torch.arange(count, device=tokens.device)
        positions = network.positions(self.lengths, self.context, self.mask_position)
        step = Pack(tokens, positions, seq_ids, self.lengths, self.lengths + 1, (1,) * count, self.no_targets, self.no_targets)
        self.lengths = self.lengths + 1
        self.cache.length += 1
        return network.logits(network(step, prefix=prefix, cache=self.cache))

    def select(self, rows: Tensor) -> None:
        """Keep these sequences only, in this order; one may be repeated (beams)."""
        self.cache.select(rows)
        self.lengths, self.context, self.mask_position = self.lengths[rows], self.context[rows], self.mask_position[rows]
