"""Attention in plain PyTorch: the reference for every other backend.

Legend: T packed tokens, B sequences, L the longest sequence, S keys of a sequence, P prefix length, H query heads, G heads of keys and
values, Q = H / G query heads that share each of them, D head size.
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from imprint.models.attention import ForwardContext
from imprint.pack import Pack

MAX_SCORES = 2**27
"""Most attention scores computed at a time (fp32: half a GiB); larger batches are split."""


class ReferenceAttention:
    """The backend for every device, dtype and context, with gradients."""

    rotates = False

    def supports(self, context: ForwardContext) -> bool:  # noqa: ARG002
        """See AttentionBackend: always."""
        return True

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
        """See AttentionBackend."""
        if context.cache is not None:
            key, value = context.cache.update(layer, context.pack, key, value)
        adapters = context.adapters
        return attend(
            query,
            key,
            value,
            context.layout(PaddedLayout.from_context),
            prefix=None if adapters.prefix is None else adapters.prefix[layer],
            prefix_masked=context.layout(_masked_keys),
            prefix_offsets=adapters.prefix_offsets,
            score_scale=score_scale,
            slopes=slopes,
        )


def _masked_keys(context: ForwardContext) -> Tensor | None:
    return context.adapters.masked()


@dataclass(frozen=True)
class PaddedLayout:
    """The index of each packed token in a padded (B, L) batch, and its mask: computed once per forward pass, used by every layer."""

    index: Tensor | None
    """(T,) index of each token in the flattened padded batch; None where the pack needs no padding."""
    rows: int
    """B."""
    length: int
    """L."""
    masked: Tensor
    """(B, 1, L, S) True where a key must not be attended to."""

    @classmethod
    def from_context(cls, context: ForwardContext) -> "PaddedLayout":
        """The layout of a forward pass."""
        return cls.from_pack(context.pack, None if context.cache is None else context.cache.length)

    @classmethod
    def from_pack(cls, pack: Pack, num_keys: int | None = None) -> "PaddedLayout":
        """The layout of a pack; `num_keys` is the number of cached keys, None without a cache."""
        rows, length, device = pack.num_seqs, max(pack.lengths), pack.ids.device
        index, num_visible = None, pack.num_visible
        if rows * length != pack.ids.numel():
            starts = [0, *accumulate(pack.lengths)][:-1]
            shifts = torch.tensor([row * length - start for row, start in enumerate(starts)], device=device)
            index = shifts[pack.seq_ids] + torch.arange(pack.ids.numel(), device=device)
            # padding attends to one key, so that no row of scores is empty
            num_visible = num_visible.new_ones(rows * length).index_copy_(0, index, num_visible)
        keys = torch.arange(length if num_keys is None else num_keys, device=device)
        return cls(index, rows, length, keys >= num_visible.view(rows, 1, length, 1))

    def pad(self, packed: Tensor) -> Tensor:
        """(T, H, D) -> (B, H, L, D), zeros at the padding; the same for the G heads of keys and values."""
        if self.index is not None:
            padded = packed.new_zeros((self.rows * self.length, *packed.shape[1:]))
            packed = padded.index_put_((self.index,), packed)  # index_copy would keep `packed` for the backward pass
        return packed.view(self.rows, self.length, *packed.shape[1:]).transpose(1, 2)

    def unpad(self, padded: Tensor) -> Tensor:
        """(B, H, L, D) -> (T, H, D)."""
        flat = padded.transpose(1, 2).reshape(self.rows * self.length, padded.shape[1], padded.shape[3])
        return flat if self.index is None else flat[self.index]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PaddedLayout,
    *,
    prefix: tuple[Tensor, Tensor] | None,
    prefix_masked: Tensor | None = None,
    prefix_offsets: Tensor | None = None,
    score_scale: float = 1.0,
    slopes: Tensor | None = None,
) -> Tensor:
    """Softmax attention of packed queries over the prefix and their own sequence.

    query (T, H, D); key and value either packed (T, G, D) or from a cache (B, G, S, D); prefix: keys and values (P, G, D)
    -> (T, H, D). Query heads that share a key head are stacked as further rows of its queries, so keys are never expanded.
    `score_scale`: queries are divided by it before the product and the fp32 scores multiplied by it, which keeps ChatGLM-6B inside fp16's
    range. `slopes` (G,): ALiBi (Press et al. 2021); each head adds its slope times the offset of the key. The softmax depends on distances
    only, so this equals BLOOM's own form. The prefix has the offsets -P ... -1, as text before the sequence would; no token is shifted.
    `prefix_masked` (B, P) and `prefix_offsets` (P,) are those of RowAdapters, where the prefix is several ones.
    """
    padded_query = layout.pad(query)
    if key.dim() == 3:
        key, value = layout.pad(key), layout.pad(value)
    prefix_key, prefix_value = (None, None) if prefix is None else (prefix[0].transpose(0, 1), prefix[1].transpose(0, 1))
    heads, key_heads, size = query.shape[1], key.shape[1], query.shape[2]
    padded_query = padded_query.reshape(layout.rows, key_heads, -1, size)
    rows_at_once = max(1, MAX_SCORES // (heads * layout.length * key.shape[2]))
    parts = [
        SharedPrefixAttention.apply(  # type: ignore[no-untyped-call]
            padded_query[i : i + rows_at_once],
            key[i : i + rows_at_once],
            value[i : i + rows_at_once],
            layout.masked[i : i + rows_at_once],
            prefix_key,
            prefix_value,
            None if prefix_masked is None else prefix_masked[i : i + rows_at_once],
            prefix_offsets,
            score_scale,
            slopes,
        )
        for i in range(0, layout.rows, rows_at_once)
    ]
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return layout.unpad(out.reshape(layout.rows, heads, layout.length, size))


class SharedPrefixAttention(torch.autograd.Function):
    """One softmax over the keys of a sequence and of the shared prefix, which is never expanded over sequences.

    Only inputs, output and log-sum-exp are saved for the backward pass; the scores are recomputed, as in FlashAttention (Dao et al. 2022).
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        masked: Tensor,
        prefix_key: Tensor | None,
        prefix_value: Tensor | None,
        prefix_masked: Tensor | None,
        prefix_offsets: Tensor | None,
        score_scale: float,
        slopes: Tensor | None,
    ) -> Tensor:
        """Query (B, G, Q * L, D), key and value (B, G, S, D), masked (B, 1, L, S), prefix (G, P, D) each, slopes (G,)

        -> (B, G, Q * L, D). `prefix_masked` (B, P) and `prefix_offsets` (P,): see RowAdapters.
        """
        query = query / (query.shape[-1] ** 0.5 * score_scale)
        scores = _scores(query, key, masked, score_scale, slopes)
        if prefix_key is not None and prefix_value is not None:
            prefix_scores = _prefix_scores(query, prefix_key, prefix_masked, prefix_offsets, score_scale, slopes)
            log_sum = _softmax_(scores, prefix_scores)
            out = _matmul_shared(prefix_scores.to(query.dtype), prefix_value)
            out += scores.to(query.dtype) @ value
        else:
            log_sum = _softmax_(scores)
            out = scores.to(query.dtype) @ value
        ctx.score_scale = score_scale
        ctx.save_for_backward(query, key, value, masked, prefix_key, prefix_value, prefix_masked, prefix_offsets, slopes, out, log_sum)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Gradients to query, key, value and the two prefix tensors."""
        (grad,) = grads
        query, key, value, masked, prefix_key, prefix_value, prefix_masked, prefix_offsets, slopes, out, log_sum = ctx.saved_tensors
        score_scale = ctx.score_scale
        delta = (grad.float() * out.float()).sum(-1, keepdim=True)  # as FlashAttention calls it
        weights = _scores(query, key, masked, score_scale, slopes).sub_(log_sum).exp_()
        grad_value = weights.to(value.dtype).transpose(-1, -2) @ grad
        grad_scores = weights.mul_((grad @ value.transpose(-1, -2)).float().sub_(delta)).mul_(score_scale).to(query.dtype)
        grad_query = grad_scores @ key
        grad_key = grad_scores.transpose(-1, -2) @ query
        grad_prefix_key = grad_prefix_value = None
        if prefix_key is not None:
            weights = _prefix_scores(query, prefix_key, prefix_masked, prefix_offsets, score_scale, slopes).sub_(log_sum).exp_()
            grad_prefix_value = _fold_batch(weights.to(value.dtype)).transpose(-1, -2) @ _fold_batch(grad)
            grad_weights = _matmul_shared(grad, prefix_value.transpose(-1, -2)).float()
            grad_scores = weights.mul_(grad_weights.sub_(delta)).mul_(score_scale).to(query.dtype)
            grad_query += _matmul_shared(grad_scores, prefix_key)
            grad_prefix_key = _fold_batch(grad_scores).transpose(-1, -2) @ _fold_batch(query)
        return (
            grad_query / (query.shape[-1] ** 0.5 * score_scale),
            grad_key,
            grad_value,
            None,
            grad_prefix_key,
            grad_prefix_value,
            None,
            None,
            None,
            None,
        )


def _scores(query: Tensor, key: Tensor, masked: Tensor, score_scale: float, slopes: Tensor | None) -> Tensor:
    """fp32 scores (B, G, Q * L, S) of the sequence's own keys."""
    scores = (query @ key.transpose(-1, -2)).float()
    key_offsets = None if slopes is None else torch.arange(scores.shape[-1], device=scores.device)
    scores = _add_alibi_(scores if score_scale == 1 else scores * score_scale, slopes, key_offsets)
    scores.unflatten(2, (-1, masked.shape[2])).masked_fill_(masked.unsqueeze(2), float("-inf"))
    return scores


def _prefix_scores(
    query: Tensor,
    prefix_key: Tensor,
    prefix_masked: Tensor | None,
    prefix_offsets: Tensor | None,
    score_scale: float,
    slopes: Tensor | None,
) -> Tensor:
    """fp32 scores (B, G, Q * L, P) of the shared prefix, or of the prefix that each sequence uses."""
    scores = _matmul_shared(query, prefix_key.transpose(-1, -2)).float()
    if slopes is not None and prefix_offsets is None:
        prefix_offsets = torch.arange(-prefix_key.shape[1], 0, device=scores.device)
    scores = _add_alibi_(scores if score_scale == 1 else scores * score_scale, slopes, prefix_offsets)
    return scores if prefix_masked is None else scores.masked_fill_(prefix_masked[:, None, None], float("-inf"))


def _add_alibi_(scores: Tensor, slopes: Tensor | None, key_offsets: Tensor | None) -> Tensor:
    """Add each head's slope times the offset (S,) of each key to scores (B, G, Q * L, S), in place."""
    if slopes is not None and key_offsets is not None:
        scores += slopes[:, None, None] * key_offsets
    return scores


def _softmax_(*parts: Tensor) -> Tensor:
    """Turn scores (..., S) into the weights of one softmax over all parts, in place; returns its log-sum-exp (..., 1).

    The weights are divided by their sum: subtracting its logarithm from the scores would round at the magnitude of the scores.
    """
    largest = parts[0].amax(-1, keepdim=True)
    for part in parts[1:]:
        largest = torch.maximum(largest, part.amax(-1, keepdim=True))
    total = torch.zeros_like(largest)
    for part in parts:
        total += part.sub_(largest).exp_().sum(-1, keepdim=True)
    for part in parts:
        part.div_(total)
    return total.log_().add_(largest)


def _fold_batch(rows: Tensor) -> Tensor:
    """(B, G, Q * L, X) -> (G, B * Q * L, X)."""
    return rows.transpose(0, 1).reshape(rows.shape[1], -1, rows.shape[3])


def _matmul_shared(rows: Tensor, prefix: Tensor) -> Tensor:
    """(B, G, Q * L, X) times one (G, X, Y) for the whole batch -> (B, G, Q * L, Y), as one batched product over heads."""
    product = _fold_batch(rows) @ prefix
    return product.view(rows.shape[1], rows.shape[0], rows.shape[2], -1).transpose(0, 1)
