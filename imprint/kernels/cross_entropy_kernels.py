"""A Triton kernel that computes the cross-entropy of a row of logits, and writes its gradient over them.

Legend: V vocabulary size.
"""

# ruff: noqa: N803 - constants are in capitals, as in Triton's own kernels
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from imprint.kernels.language import jit, tl


@jit()
def capped(x, cap, CAPPED: tl.constexpr):
    """Logits in fp32 under a soft cap."""
    x = x.to(tl.float32)
    return cap * (1.0 - 2.0 / (tl.exp(x * (2.0 / cap)) + 1.0)) if CAPPED else x


@jit()
def cross_entropy_kernel(
    logits, labels, weights, losses, cap, row_stride,
    V: tl.constexpr, BLOCK_V: tl.constexpr, CAPPED: tl.constexpr, WEIGHTED: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    """One row: its cross-entropy times its weight; with GRADIENT, the gradient of that takes the place of the logits."""
    row = tl.program_id(0).to(tl.int64)
    first = logits + row * row_stride
    label = tl.load(labels + row)
    weight = tl.load(weights + row).to(tl.float32) if WEIGHTED else 1.0
    of_label = capped(tl.load(first + label), cap, CAPPED)  # read before the row is overwritten
    block = tl.arange(0, BLOCK_V)
    most = float("-inf")
    total = tl.zeros((BLOCK_V,), tl.float32)
    for start in range(0, V, BLOCK_V):
        mask = start + block < V
        values = tl.load(first + start + block, mask=mask, other=float("-inf"))
        values = tl.where(mask, capped(values, cap, CAPPED), float("-inf"))
        larger = tl.maximum(most, tl.max(values, 0))
        base = tl.where(larger == float("-inf"), 0.0, larger)  # so that exp gives 0 where all are -inf
        total = total * tl.exp(most - base) + tl.exp(values - base)
        most = larger
    log_sum = most + tl.log(tl.sum(total, 0))
    tl.store(losses + row, (log_sum - of_label) * weight)
    if GRADIENT:
        for start in range(0, V, BLOCK_V):
            columns = start + block
            mask = columns < V
            values = capped(tl.load(first + columns, mask=mask, other=0.0), cap, CAPPED)
            gradient = tl.exp(values - log_sum) - tl.where(columns == label, 1.0, 0.0)
            if CAPPED:
                gradient *= 1.0 - (values / cap) * (values / cap)
            tl.store(first + columns, (gradient * weight).to(logits.dtype.element_ty), mask=mask)
