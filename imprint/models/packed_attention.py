"""Attention over packed rows by Triton kernels: no padding, no stored scores, and the prefix as leading keys of every row.

Legend: T packed tokens, P prefix length.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from imprint.kernels import available
from imprint.kernels.attend_packed import MAX_HEAD_DIM, attend_packed
from imprint.kernels.joint_heads import JointHeads
from imprint.messages import Bilingual
from imprint.models.attention import ForwardContext
from imprint.models.reference_attention import ReferenceAttention


class PackedAttention:
    """The backend for passes that read nothing of a cache, on a GPU with Triton: training, scoring, perplexity, and prompts."""

    rotates = False

    def supports(self, context: ForwardContext) -> bool:
        """See AttentionBackend."""
        return (context.cache is None or context.pack.is_start) and context.pack.ids.is_cuda

    @staticmethod
    def fits(head_dim: int) -> bool:
        """Whether heads of this size fit into the kernels, on a GPU that runs them."""
        return head_dim <= MAX_HEAD_DIM

    @staticmethod
    def problem(head_dim: int, device: torch.device, dtype: torch.dtype) -> Bilingual | None:
        """Why the kernels do not attend with heads of this size; None where they do."""
        if device.type != "cuda":
            return available.NO_GPU
        if not PackedAttention.fits(head_dim):
            return Bilingual(f"heads of {head_dim} are larger than {MAX_HEAD_DIM}", f"注意力头的维数 {head_dim} 超过 {MAX_HEAD_DIM}")
        return available.dtype_problem(device.index, dtype, matrix=True)

    @staticmethod
    def computes(head_dim: int, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether there is no `problem`; else ReferenceAttention attends."""
        return PackedAttention.problem(head_dim, device, dtype) is None

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
        """See AttentionBackend. `score_scale` is not needed where scores are fp32 from the start."""
        if not self.computes(query.shape[-1], query.device, query.dtype):
            return ReferenceAttention().attend(layer, query, key, value, context, score_scale=score_scale, slopes=slopes)
        return attend_rows(layer, query, key, value, context, slopes)


def attend_rows(layer: int, query: Tensor, key: Tensor, value: Tensor, context: ForwardContext, slopes: Tensor | None) -> Tensor:
    """See AttentionBackend.attend, on any device that the kernels run on."""
    rows, adapters = context.layout(VisibleKeys.from_context), context.adapters
    if context.cache is not None:
        context.cache.write(layer, context.pack, key, value)
    if torch.is_grad_enabled() and JointHeads.of((query, key, value)) is None:
        value = value.contiguous()  # kept for the gradient without the queries and keys beside it
    prefix_key, prefix_value = (None, None) if adapters.prefix is None else adapters.prefix[layer]
    out: Tensor = attend_packed(
        query,
        key,
        value,
        prefix_key,
        prefix_value,
        rows.first,
        rows.end,
        rows.seq_end,
        rows.seq_ids,
        rows.prefix_masked,
        rows.prefix_offsets,
        slopes,
    )[0]
    return out


@dataclass(frozen=True)
class VisibleKeys:
    """Which keys each token attends to: computed once for the layers of a pass, on the device of the pack."""

    first: Tensor
    """(T,) int32 the first key of the pack that a token attends to."""
    end: Tensor
    """(T,) int32 the one after the last."""
    seq_end: Tensor
    """(T,) int32 the token after the token's sequence."""
    seq_ids: Tensor
    """(T,) int32 the token's sequence."""
    prefix_masked: Tensor | None
    """(B, P) True where a sequence does not attend to a key of the prefix; None where all attend to all."""
    prefix_offsets: Tensor | None
    """(P,) int32 distance of each key of the prefix from the start of the rows, below 0; None without a prefix."""

    @classmethod
    def from_context(cls, context: ForwardContext) -> "VisibleKeys":
        """The keys of a pass that reads nothing of a cache."""
        pack, adapters = context.pack, context.adapters
        device = pack.ids.device
        first = torch.arange(pack.ids.numel(), device=device) - pack.offsets
        seq_end = torch.searchsorted(pack.seq_ids, pack.seq_ids, right=True)
        offsets = adapters.prefix_offsets
        if adapters.prefix is not None and offsets is None:
            offsets = torch.arange(-len(adapters.prefix[0][0]), 0, device=device)
        first, end, seq_end, seq_ids = (one.int() for one in (first, first + pack.num_visible, seq_end, pack.seq_ids))
        return cls(first, end, seq_end, seq_ids, adapters.masked(), None if offsets is None else offsets.int())
