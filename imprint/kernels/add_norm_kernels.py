"""A Triton kernel of what stands between products, in decoding and in training: the sum of a residual and the norm behind it.

Legend: T tokens, C hidden size.
"""

# ruff: noqa: N803 - constants are in capitals, as in Triton's own kernels
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from imprint.kernels.language import jit, tl


# fmt: off
@jit()
def add_norm_kernel(
    x, y, weight, bias, total, out, factor, eps, x_row, y_row, C: tl.constexpr, BLOCK_C: tl.constexpr, CENTRED: tl.constexpr,
    HAS_BIAS: tl.constexpr, OFFSET: tl.constexpr = 0.0,
):
    """One token: total = x * factor + y, and its norm, a layer norm where it is CENTRED, else an RMS norm, times the weight plus OFFSET."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_C)
    mask = columns < C
    first = tl.load(x + row * x_row + columns, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(y + row * y_row + columns, mask=mask, other=0.0).to(tl.float32)
    factors = tl.load(weight + columns, mask=mask, other=0.0).to(tl.float32)  # asked for here, so that no sum waits for them
    if OFFSET != 0.0:
        factors += OFFSET
    shift = tl.load(bias + columns, mask=mask, other=0.0).to(tl.float32) if HAS_BIAS else 0.0
    rounded = (first * factor + second).to(total.dtype.element_ty)
    tl.store(total + row * C + columns, rounded, mask=mask)
    values = rounded.to(tl.float32)
    if CENTRED:
        values = tl.where(mask, values - tl.sum(values, 0) / C, 0.0)
    values = values / tl.sqrt(tl.sum(values * values, 0) / C + eps)
    tl.store(out + row * C + columns, (values * factors + shift).to(out.dtype.element_ty), mask=mask)
# fmt: on
