"""Attention of a decoding step, one new token per sequence, in Triton: each key and value is read once."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from imprint.kernels import available
from imprint.messages import Bilingual
from imprint.models.attention import ForwardContext, PrefixRanges
from imprint.models.pending import values
from imprint.models.rotary import PendingRotation

if TYPE_CHECKING:
    from imprint.kernels.attend_step import Rotation


class DecodeAttention:
    """The backend of steps with a cache and one token per sequence on a GPU; no gradients."""

    rotates = True

    def supports(self, context: ForwardContext) -> bool:
        """See AttentionBackend."""
        cache, pack = context.cache, context.pack
        if cache is None or pack.num_seqs != len(pack.ids) or torch.is_grad_enabled() or not pack.ids.is_cuda:
            return False
        return bool(available.usable(pack.ids.device.index, cache.keys[0].dtype, matrix=True))

    @staticmethod
    def problem(device: torch.device, dtype: torch.dtype) -> Bilingual | None:
        """Why no step is computed by the kernel, with a cache of this dtype; None where steps are."""
        return available.dtype_problem(device.index, dtype, matrix=True) if device.type == "cuda" else available.NO_GPU

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
        query, key, rotation = _unrotated(query, key)
        visible = context.pack.num_visible
        return attend_step(query, (key, value), cached, visible, prefix=own, slopes=slopes, rotation=rotation)


def _unrotated(query: Any, key: Any) -> "tuple[Tensor, Tensor, Rotation | None]":
    """Queries and keys, and how the kernel must rotate them."""
    from imprint.kernels.attend_step import Rotation

    if isinstance(query, PendingRotation) and isinstance(key, PendingRotation) and query.computed is key.computed is None:
        return query.x, key.x, Rotation(query.cos, query.sin, query.distance)
    query, key = values((query, key))
    return query, key, None


def _prefix_ranges(context: ForwardContext) -> PrefixRanges:
    return context.adapters.prefix_ranges(context.pack.num_seqs, context.pack.ids.device)
