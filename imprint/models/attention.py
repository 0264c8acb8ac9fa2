"""Attention over packed rows, a prefix shared by all of them, and an optional cache.

Legend: T packed tokens, B rows, L the longest row, S keys of a row, P prefix length, H heads of keys and values, Q query heads of each of
them (1 where every query has its own), D head size.
"""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from imprint.pack import Pack

Prefix = list[tuple[Tensor, Tensor]]
"""One (keys, values) pair a layer, each (P, H, D): a value of attention, shared by every row, never copied per row."""

SCORES_AT_ONCE = 2**27
"""How many attention scores are held at a time (fp32: half a GiB); more rows than that are computed in pieces."""


class Cache:
    """Keys and values of up to B rows of up to S tokens, allocated once."""

    def __init__(
        self, *, layers: int, rows: int, capacity: int, heads: int, head_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (rows, heads, capacity, head_size)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.used = 0
        """Columns in use by the longest row: attention reads no further."""

    def extend(self, layer: int, pack: Pack, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the pack's keys and values (T, H, D) at their places; return all of this layer, (B, H, used, D) each."""
        self.keys[layer][pack.row, :, pack.column] = key
        self.values[layer][pack.row, :, pack.column] = value
        return self.keys[layer][:, :, : self.used], self.values[layer][:, :, : self.used]

    def keep(self, rows: Tensor) -> None:
        """Keep these rows (K,), in this order; a row may be named several times."""
        self.keys = [tensor.index_select(0, rows) for tensor in self.keys]
        self.values = [tensor.index_select(0, rows) for tensor in self.values]


@dataclass(frozen=True)
class Grid:
    """How packed tokens lie in a padded (B, L) grid, and what each may see: made once a pass, used by every layer."""

    index: Tensor | None
    """(T,) place of each token in the flattened grid; None where the pack is the grid already."""
    rows: int
    length: int
    masked: Tensor
    """(B, 1, L, S) True where a key must not be seen."""

    @classmethod
    def of(cls, pack: Pack, keys: int | None = None) -> "Grid":
        """The grid of a pack; `keys` is the number of cached keys a row may see, None without a cache."""
        rows, length, device = pack.rows, max(pack.lengths), pack.ids.device
        index, visible = None, pack.visible
        if rows * length != pack.ids.numel():
            before = [0, *accumulate(pack.lengths)][:-1]
            first = torch.tensor([row * length - start for row, start in enumerate(before)], device=device)
            index = first[pack.row] + torch.arange(pack.ids.numel(), device=device)
            # padding looks at one key, so that no row of scores is empty
            visible = visible.new_ones(rows * length).index_copy_(0, index, visible)
        seen = torch.arange(length if keys is None else keys, device=device)
        return cls(index, rows, length, seen >= visible.view(rows, 1, length, 1))

    def spread(self, packed: Tensor) -> Tensor:
        """(T, H, D) -> (B, H, L, D), zeros where there is no token."""
        if self.index is not None:
            padded = packed.new_zeros((self.rows * self.length, *packed.shape[1:]))
            packed = padded.index_copy(0, self.index, packed)
        return packed.view(self.rows, self.length, *packed.shape[1:]).transpose(1, 2)

    def gather(self, grid: Tensor) -> Tensor:
        """(B, H, L, D) -> (T, H, D)."""
        flat = grid.transpose(1, 2).reshape(self.rows * self.length, grid.shape[1], grid.shape[3])
        return flat if self.index is None else flat[self.index]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grid: Grid,
    *,
    prefix: tuple[Tensor, Tensor] | None,
    damping: float = 1.0,
    slopes: Tensor | None = None,
) -> Tensor:
    """Softmax attention of packed queries over prefix and row.

    query (T, H * Q, D); key and value either packed (T, H, D) or from a cache (B, H, S, D); prefix: keys and values (P, H, D)
    -> (T, H * Q, D). Queries that share keys become further rows of theirs, so that keys are never expanded.
    `damping`: queries are divided by it before the product and the fp32 scores multiplied back, which keeps ChatGLM-6B inside fp16's range.
    `slopes` (H,): ALiBi (Press et al. 2021); each head adds its slope times a key's place in the row. The softmax knows distances only, so
    this is what BLOOM's own form is. The prefix stands before the row, at -P ... -1: as a text there would, and no place of the row moves.
    """
    spread_query = grid.spread(query)
    if key.dim() == 3:
        key, value = grid.spread(key), grid.spread(value)
    prefix_key, prefix_value = (None, None) if prefix is None else (prefix[0].transpose(0, 1), prefix[1].transpose(0, 1))
    heads, key_heads, size = query.shape[1], key.shape[1], query.shape[2]
    spread_query = spread_query.reshape(grid.rows, key_heads, -1, size)
    rows_at_once = max(1, SCORES_AT_ONCE // (heads * grid.length * key.shape[2]))
    pieces = [
        SharedPrefixAttention.apply(  # type: ignore[no-untyped-call]
            spread_query[i : i + rows_at_once],
            key[i : i + rows_at_once],
            value[i : i + rows_at_once],
            grid.masked[i : i + rows_at_once],
            prefix_key,
            prefix_value,
            damping,
            slopes,
        )
        for i in range(0, grid.rows, rows_at_once)
    ]
    mixed = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return grid.gather(mixed.reshape(grid.rows, heads, grid.length, size))


@dataclass(frozen=True)
class Pass:
    """One pass through a network: what all its attentions need."""

    pack: Pack
    grid: Grid
    prefix: Prefix | None
    cache: Cache | None

    @classmethod
    def of(cls, pack: Pack, prefix: Prefix | None = None, cache: Cache | None = None) -> "Pass":
        """The pass of a pack behind a prefix, its rows going on where a cache ends."""
        return cls(pack, Grid.of(pack, None if cache is None else cache.used), prefix, cache)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, *, damping: float = 1.0, slopes: Tensor | None = None
    ) -> Tensor:
        """Attention of one layer, counted from 0: query (T, H * Q, D), key and value (T, H, D) -> (T, H * Q, D).

        Keys and values are put into the cache, which the row then is; `damping` and `slopes` as `attend` takes them.
        """
        if self.cache is not None:
            key, value = self.cache.extend(layer, self.pack, key, value)
        prefix = None if self.prefix is None else self.prefix[layer]
        return attend(query, key, value, self.grid, prefix=prefix, damping=damping, slopes=slopes)


class SharedPrefixAttention(torch.autograd.Function):
    """One softmax over a row's own keys and the shared prefix, which is multiplied as one matrix and never expanded over rows.

    Only inputs, output and log-sum-exp are kept for backward; the scores are computed again, as in FlashAttention (Dao et al. 2022).
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
        damping: float,
        slopes: Tensor | None,
    ) -> Tensor:
        """Take query (B, H, Q * L, D), key and value (B, H, S, D), masked (B, 1, L, S), prefix (H, P, D) each, slopes (H,)

        -> (B, H, Q * L, D).
        """
        query = query / (query.shape[-1] ** 0.5 * damping)
        scores = _scores(query, key, masked, damping, slopes)
        if prefix_key is not None and prefix_value is not None:
            prefix_scores = _prefix_scores(query, prefix_key, damping, slopes)
            log_sum = _softmax_(scores, prefix_scores)
            out = _over_prefix(prefix_scores.to(query.dtype), prefix_value)
            out += scores.to(query.dtype) @ value
        else:
            log_sum = _softmax_(scores)
            out = scores.to(query.dtype) @ value
        ctx.damping = damping
        ctx.save_for_backward(query, key, value, masked, prefix_key, prefix_value, slopes, out, log_sum)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Gradients to query, key, value and the two prefix tensors."""
        (grad,) = grads
        query, key, value, masked, prefix_key, prefix_value, slopes, out, log_sum = ctx.saved_tensors
        damping = ctx.damping
        centre = (grad.float() * out.float()).sum(-1, keepdim=True)
        weights = _scores(query, key, masked, damping, slopes).sub_(log_sum).exp_()
        grad_value = weights.to(value.dtype).transpose(-1, -2) @ grad
        grad_scores = weights.mul_((grad @ value.transpose(-1, -2)).float().sub_(centre)).mul_(damping).to(query.dtype)
        grad_query = grad_scores @ key
        grad_key = grad_scores.transpose(-1, -2) @ query
        grad_prefix_key = grad_prefix_value = None
        if prefix_key is not None:
            weights = _prefix_scores(query, prefix_key, damping, slopes).sub_(log_sum).exp_()
            grad_prefix_value = _by_head(weights.to(value.dtype)).transpose(-1, -2) @ _by_head(grad)
            grad_weights = _over_prefix(grad, prefix_value.transpose(-1, -2)).float()
            grad_scores = weights.mul_(grad_weights.sub_(centre)).mul_(damping).to(query.dtype)
            grad_query += _over_prefix(grad_scores, prefix_key)
            grad_prefix_key = _by_head(grad_scores).transpose(-1, -2) @ _by_head(query)
        return grad_query / (query.shape[-1] ** 0.5 * damping), grad_key, grad_value, None, grad_prefix_key, grad_prefix_value, None, None


def _scores(query: Tensor, key: Tensor, masked: Tensor, damping: float, slopes: Tensor | None) -> Tensor:
    """fp32 scores (B, H, Q * L, S) of a row's own keys."""
    scores = (query @ key.transpose(-1, -2)).float()
    scores = _biased_(scores if damping == 1 else scores * damping, slopes, first=0)
    scores.unflatten(2, (-1, masked.shape[2])).masked_fill_(masked.unsqueeze(2), float("-inf"))
    return scores


def _prefix_scores(query: Tensor, prefix_key: Tensor, damping: float, slopes: Tensor | None) -> Tensor:
    """fp32 scores (B, H, Q * L, P) of the shared prefix."""
    scores = _over_prefix(query, prefix_key.transpose(-1, -2)).float()
    return _biased_(scores if damping == 1 else scores * damping, slopes, first=-prefix_key.shape[1])


def _biased_(scores: Tensor, slopes: Tensor | None, *, first: int) -> Tensor:
    """Add each head's slope times the place of a key to scores (B, H, Q * L, S), in place; the first key stands at `first`."""
    if slopes is not None:
        scores += slopes[:, None, None] * torch.arange(first, first + scores.shape[-1], device=scores.device)
    return scores


def _softmax_(*parts: Tensor) -> Tensor:
    """Turn scores (..., S) into the weights of one softmax over all parts, in place; returns its log-sum-exp (..., 1).

    Weights are divided by their sum, not lowered by its logarithm, which would round at the size of the scores.
    """
    top = parts[0].amax(-1, keepdim=True)
    for part in parts[1:]:
        top = torch.maximum(top, part.amax(-1, keepdim=True))
    total = torch.zeros_like(top)
    for part in parts:
        total += part.sub_(top).exp_().sum(-1, keepdim=True)
    for part in parts:
        part.div_(total)
    return total.log_().add_(top)


def _by_head(rows: Tensor) -> Tensor:
    """(B, H, L, X) -> (H, B*L, X)."""
    return rows.transpose(0, 1).reshape(rows.shape[1], -1, rows.shape[3])


def _over_prefix(rows: Tensor, prefix: Tensor) -> Tensor:
    """(B, H, L, X) times one (H, X, Y) for all rows -> (B, H, L, Y): a plain batched product over heads, so nothing is expanded."""
    product = _by_head(rows) @ prefix
    return product.view(rows.shape[1], rows.shape[0], rows.shape[2], -1).transpose(0, 1)
