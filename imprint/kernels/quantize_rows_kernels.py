"""A Triton kernel that quantizes rows of numbers to FP8, each with a scale of its own, in one pass over memory.

Legend: T tokens, F features.
"""

# ruff: noqa: N803 - constants are in capitals, as in Triton's own kernels
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from imprint.kernels.gated_kernels import activate
from imprint.kernels.language import jit, tl


# fmt: off
@jit()
def quantize_rows_kernel(
    x, pre_activation, factors, out, scales, x_row, pre_activation_row,
    F: tl.constexpr, BLOCK: tl.constexpr, MOST: tl.constexpr, LEAST: tl.constexpr,
    ACTIVATE: tl.constexpr, DERIVATIVE: tl.constexpr, HAS_FACTORS: tl.constexpr,
):
    """One row of x (T, F), the largest magnitude of which becomes MOST, and its scale.

    ACTIVATE: of the tanh approximation of its GELU. DERIVATIVE: of x times the derivative of that where it took `pre_activation` (T, F).
    HAS_FACTORS: times the factors (F,).
    """
    row, columns = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    mask = columns < F
    values = tl.load(x + row * x_row + columns, mask=mask, other=0.0).to(tl.float32)
    if ACTIVATE:
        values, _ = activate(values, True)
    if DERIVATIVE:
        _, derivative = activate(tl.load(pre_activation + row * pre_activation_row + columns, mask=mask, other=0.0).to(tl.float32), True)
        values *= derivative
    if HAS_FACTORS:
        values *= tl.load(factors + columns, mask=mask, other=0.0)
    largest = tl.maximum(tl.max(tl.abs(values), 0), LEAST)
    tl.store(scales + row, largest / MOST)
    values = values * (MOST / largest)
    # what is not a number stays so
    bounded = tl.where(values == values, tl.minimum(tl.maximum(values, -MOST), MOST), values)
    tl.store(out + row * F + columns, bounded.to(out.dtype.element_ty), mask=mask)
# fmt: on
