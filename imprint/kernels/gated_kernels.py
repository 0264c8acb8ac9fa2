"""Triton kernels of a gated activation and its gradients.

Legend: T tokens, F features.
"""

# ruff: noqa: N803 - constants are in capitals, as in Triton's own kernels
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from imprint.kernels.language import jit, tl


@jit()
def activate(x, GELU: tl.constexpr):
    """SiLU, or the tanh approximation of GELU; and its derivative."""
    if GELU:
        inner = 1.5957691216057308 * (x + 0.044715 * x * x * x)  # twice the square root of 2 / pi
        inner_derivative = 1.5957691216057308 * (1.0 + 0.134145 * x * x)
    else:
        inner, inner_derivative = x, 1.0
    share = tl.sigmoid(tl.maximum(inner, -80.0))
    return x * share, share + x * share * (1.0 - share) * inner_derivative


# fmt: off
@jit()
def gated_kernel(gate, up, out, gate_row, up_row, F: tl.constexpr, BLOCK: tl.constexpr, GELU: tl.constexpr):
    """Some features of one token: the activation of the gate (T, F) times `up` (T, F)."""
    row, columns = tl.program_id(1).to(tl.int64), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < F
    x = tl.load(gate + row * gate_row + columns, mask=mask, other=0.0).to(tl.float32)
    factors = tl.load(up + row * up_row + columns, mask=mask, other=0.0).to(tl.float32)
    activated, _ = activate(x, GELU)
    tl.store(out + row * F + columns, (activated * factors).to(out.dtype.element_ty), mask=mask)


@jit()
def gated_gradient_kernel(
    gate, up, grad, gate_grad, up_grad, gate_row, up_row, grad_row, F: tl.constexpr, BLOCK: tl.constexpr, GELU: tl.constexpr,
):
    """Some features of one token: the gradients of the gate and of `up`, whose rows are `grad_row` apart."""
    row, columns = tl.program_id(1).to(tl.int64), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < F
    x = tl.load(gate + row * gate_row + columns, mask=mask, other=0.0).to(tl.float32)
    factors = tl.load(up + row * up_row + columns, mask=mask, other=0.0).to(tl.float32)
    g = tl.load(grad + row * F + columns, mask=mask, other=0.0).to(tl.float32)
    activated, derivative = activate(x, GELU)
    offsets = row * grad_row + columns
    tl.store(gate_grad + offsets, (g * factors * derivative).to(gate_grad.dtype.element_ty), mask=mask)
    tl.store(up_grad + offsets, (g * activated).to(up_grad.dtype.element_ty), mask=mask)
# fmt: on
