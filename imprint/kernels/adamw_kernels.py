"""A Triton kernel of AdamW for weights in bfloat16, in one pass over memory: 26 bytes an element.

The fp32 master of a weight is split: the weight is its upper half, rounded, and `low` holds what the rounding leaves. Legend: N elements.
"""

# ruff: noqa: N803 - constants are in capitals, as in Triton's own kernels
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from imprint.kernels.language import jit, tl


# fmt: off
@jit()
def adamw_kernel(
    weight, low, gradient, mean, square, N, factor, decay_factor, mean_share, beta2, square_share, step_size, correction, eps,
    BLOCK: tl.constexpr,
):
    """BLOCK elements: weight and gradient as their bits, int16 as low, both moments fp32; the formula is that of torch's AdamW."""
    first = tl.program_id(0).to(tl.int64) * BLOCK
    offsets = tl.arange(0, BLOCK)
    mask = offsets < N - first
    high_bits = tl.load(weight + first + offsets, mask=mask, other=0).to(tl.int32) << 16
    low_bits = tl.load(low + first + offsets, mask=mask, other=0).to(tl.int32)
    gradient_bits = tl.load(gradient + first + offsets, mask=mask, other=0).to(tl.int32) << 16
    m = tl.load(mean + first + offsets, mask=mask, other=0.0)
    v = tl.load(square + first + offsets, mask=mask, other=0.0)
    value = (high_bits + low_bits).to(tl.float32, bitcast=True) * decay_factor
    g = gradient_bits.to(tl.float32, bitcast=True) * factor
    m = m + mean_share * (g - m)
    v = v * beta2 + square_share * g * g
    value = value - tl.div_rn(step_size * m, tl.div_rn(tl.sqrt_rn(v), correction) + eps)
    bits = value.to(tl.int32, bitcast=True)
    rounded = (bits + 0x8000) >> 16
    tl.store(weight + first + offsets, rounded.to(tl.int16), mask=mask)
    tl.store(low + first + offsets, (bits - (rounded << 16)).to(tl.int16), mask=mask)
    tl.store(mean + first + offsets, m, mask=mask)
    tl.store(square + first + offsets, v, mask=mask)
# fmt: on
