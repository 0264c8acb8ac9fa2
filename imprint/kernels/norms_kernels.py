"""Triton kernels of norms over rows, and of their gradient with what a residual adds to it.

Legend: T rows (tokens, or heads of tokens), C columns that a norm is taken over.
"""

# ruff: noqa: N803 - constants are in capitals, as in Triton's own kernels
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from imprint.kernels.language import jit, tl


@jit()
def normalise(values, mask, eps, C: tl.constexpr, CENTRED: tl.constexpr):
    """(rows, columns) without their mean where it is CENTRED, over their deviation; and one over that deviation, (rows,)."""
    if CENTRED:
        values = tl.where(mask, values - (tl.sum(values, 1) / C)[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, 1) / C + eps)
    return values * scale[:, None], scale


# fmt: off
@jit(varying=("rows",))
def norm_kernel(
    x, weight, bias, out, eps, rows, C: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr, CENTRED: tl.constexpr,
    OFFSET: tl.constexpr, HAS_BIAS: tl.constexpr,
):
    """Some rows of x (T, C): the norm, times the weight plus OFFSET, plus the bias."""
    index, columns = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK_C)
    mask = (index < rows)[:, None] & (columns < C)[None, :]
    offsets = index.to(tl.int64)[:, None] * C + columns[None, :]
    factors = tl.load(weight + columns, mask=columns < C, other=0.0).to(tl.float32) + OFFSET
    values, _ = normalise(tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32), mask, eps, C, CENTRED)
    values = values * factors[None, :]
    if HAS_BIAS:
        values += tl.load(bias + columns, mask=columns < C, other=0.0).to(tl.float32)[None, :]
    tl.store(out + offsets, values.to(out.dtype.element_ty), mask=mask)


@jit(varying=("rows",))
def norm_gradient_kernel(
    x, weight, grad, residual_grad, sum_grad, out, factor, eps, rows, C: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr,
    CENTRED: tl.constexpr, OFFSET: tl.constexpr, HAS_RESIDUAL: tl.constexpr, HAS_SUM: tl.constexpr,
):
    """Some rows of the gradient of x (T, C), from those of its norm (`grad`, and `residual_grad` times a factor) and of x itself."""
    index, columns = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK_C)
    mask = (index < rows)[:, None] & (columns < C)[None, :]
    offsets = index.to(tl.int64)[:, None] * C + columns[None, :]
    values = tl.load(x + offsets, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(grad + offsets, mask=mask, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        g += tl.load(residual_grad + offsets, mask=mask, other=0.0).to(tl.float32) * factor
    g *= (tl.load(weight + columns, mask=columns < C, other=0.0).to(tl.float32) + OFFSET)[None, :]
    values, scale = normalise(values, mask, eps, C, CENTRED)
    result = g - values * (tl.sum(g * values, 1) / C)[:, None]
    if CENTRED:
        result -= (tl.sum(g, 1) / C)[:, None]
    result *= scale[:, None]
    if HAS_SUM:
        result += tl.load(sum_grad + offsets, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + offsets, result.to(out.dtype.element_ty), mask=mask)
# fmt: on
