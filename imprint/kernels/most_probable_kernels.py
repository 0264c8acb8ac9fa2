"""A Triton kernel that finds the most probable token of each row of logits, and its log-probability, in one pass over the vocabulary.

Legend: B rows, V vocabulary size, S parts of it.
"""

# ruff: noqa: N803 - constants are in capitals, as in Triton's own kernels
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from imprint.kernels.language import jit, tl


@jit()
def is_finite(x):
    """Whether numbers are neither infinite nor NaN."""
    return (x > float("-inf")) & (x < float("inf"))


@jit()
def part_kernel(logits, largest, ids, sums, V, row_stride, BLOCK_V: tl.constexpr, S: tl.constexpr):
    """One part of one row: its largest logit, the first id that has it, and the sum of exp(logit - largest); NaN counts as infinity."""
    part, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    columns = part * BLOCK_V + tl.arange(0, BLOCK_V)
    values = tl.load(logits + row * row_stride + columns, mask=columns < V, other=float("-inf")).to(tl.float32)
    values = tl.where(values != values, float("inf"), values)
    most = tl.max(values, 0)
    offset = row * S + part
    tl.store(largest + offset, most)
    tl.store(ids + offset, tl.min(tl.where(values == most, columns, V), 0))
    tl.store(sums + offset, tl.sum(tl.exp(values - tl.where(is_finite(most), most, 0.0)), 0))


@jit()
def join_kernel(largest, ids, sums, tokens, log_probs, S: tl.constexpr, BLOCK_S: tl.constexpr):
    """One row from its parts: the first id with the largest logit and its log-probability; -1 and -inf where that logit is not finite."""
    row = tl.program_id(0).to(tl.int64)
    parts = tl.arange(0, BLOCK_S)
    mask = parts < S
    values = tl.load(largest + row * S + parts, mask=mask, other=float("-inf"))
    most = tl.max(values, 0)
    usable = is_finite(most)
    first = tl.min(tl.where(mask & (values == most), tl.load(ids + row * S + parts, mask=mask, other=0), 2147483647), 0)
    base = tl.where(usable, most, 0.0)
    shrink = tl.exp(tl.where(usable, values - base, 0.0))
    total = tl.where(usable, tl.sum(tl.load(sums + row * S + parts, mask=mask, other=0.0) * shrink, 0), 1.0)
    tl.store(tokens + row, tl.where(usable, first, -1).to(tl.int64))
    tl.store(log_probs + row, tl.where(usable, -tl.log(total), float("-inf")))
