"""A long prompt that is run in parts, so that the sequences of a batch get their next tokens in between.

Legend: V vocabulary size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from imprint.models.attention import RowAdapters
from imprint.models.network import Network
from imprint.pack import Pack, pack


class Prefill:
    """One prompt in a cache of its own, from which it moves into a batch when all of it has been run.

    The bidirectional part of a prompt (ChatGLM-6B: all but its last token) is run at once: each of its tokens attends to all of them.
    """

    def __init__(self, network: Network, ids: Sequence[int], adapter_id: int) -> None:
        self.network = network
        self.adapter_id = adapter_id
        self.span = network.context_span(ids)
        self.length = len(ids)
        self.done = 0
        """Tokens that have been run."""
        self._pack = pack([ids], network).to(network.device)
        self.cache = network.new_cache(1, len(ids))

    @torch.inference_mode()
    def advance(self, tokens: int, adapters: RowAdapters) -> Tensor | None:
        """Run the next `tokens` tokens; returns the logits (1, V) of the first new token with the last part, before that None."""
        whole, start = self._pack, self.done
        end = self.done = min(max(start + tokens, self.span.bidirectional_length), self.length)
        part = Pack(
            whole.ids[start:end],
            whole.positions[:, start:end],
            whole.seq_ids[start:end],
            whole.offsets[start:end],
            whole.num_visible[start:end],
            (end - start,),
            whole.targets,
            whole.labels,
            is_start=start == 0,
        )
        hidden = self.network(part, adapters=adapters, cache=self.cache.view(0, 1, end))
        return self.network.logits(hidden[-1:]) if end == self.length else None
