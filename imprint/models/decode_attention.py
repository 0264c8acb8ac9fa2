"""Attention of a decoding step, one new token per sequence, in Triton: each key and value is read once."""

import torch
from torch import Tensor

from imprint.kernels import available
from imprint.models.attention import ForwardContext, PrefixRanges


class DecodeAttention:
    """The backend of steps with a cache and one token per sequence on a GPU; no gradients."""

    def supports(self, context: ForwardContext) -> bool:
        """See AttentionBackend."""
        cache, pack = context.cache, context.pack
        if cache is None or pack.num_seqs != len(pack.ids) or torch.is_grad_enabled() or not pack.ids.is_cuda:
            return False
        return bool(available.usable(pack.ids.device.index, cache.keys[0].dtype, matrix=True))

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        context: ForwardContext,
        *,
        score_scale: float,  # noqa: ARG002 - scores are computed in fp32
        slopes: Tensor | None,
    ) -> Tensor:
        """See AttentionBackend."""
        from imprint.kernels.attend_step import KeyRanges, attend_step

        assert context.cache is not None
        adapters = context.adapters
        prefix = None if adapters.prefix is None else adapters.prefix[layer]
        ranges = context.layout(_prefix_ranges)
        cached = context.cache.keys[layer], context.cache.values[layer]
        own = None if prefix is None else KeyRanges(*prefix, ranges.begins, ranges.lengths, ranges.order)
        return attend_step(query, (key, value), cached, context.pack.num_visible, prefix=own, slopes=slopes)


def _prefix_ranges(context: ForwardContext) -> PrefixRanges:
    return context.adapters.prefix_ranges(context.pack.num_seqs, context.pack.ids.device)
