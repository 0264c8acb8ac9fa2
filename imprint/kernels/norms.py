"""Norms, and sums with the norm behind them, as operations of PyTorch that Triton kernels compute.

Legend: T rows (tokens, or heads of tokens), C columns that a norm is taken over.
"""

from typing import Any

import torch
from torch import Tensor, library

from imprint.kernels.current_device import on_device
from imprint.kernels.tiles import power_of_two

BLOCK = 2048
"""Elements of a program that normalises several rows."""


@library.custom_op("imprint::add_norm", mutates_args=())
def add_norm(
    x: Tensor,
    factor: float,
    y: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    offset: float,
    centred: bool,  # noqa: FBT001
) -> tuple[Tensor, Tensor]:
    """X (..., C) times a factor, plus y (..., C); and its layer norm if `centred`, else its RMS norm, times the weight plus `offset`."""
    from imprint.kernels.add_norm import add_norm as by_kernel

    columns = x.shape[-1]
    total, out = by_kernel(x.reshape(-1, columns), factor, y.reshape(-1, columns), weight, bias, eps, centred=centred, offset=offset)
    return total.view(x.shape), out.view(x.shape)


@add_norm.register_fake
def _(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


@library.custom_op("imprint::norm", mutates_args=())
def norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, offset: float, centred: bool) -> Tensor:  # noqa: FBT001
    """The layer norm of x (..., C) if `centred`, else the RMS norm, times the weight plus `offset`."""
    from imprint.kernels.norms_kernels import norm_kernel

    x = x.contiguous()
    out = torch.empty_like(x)
    rows, constants = x.numel() // x.shape[-1], _constants(x, offset, centred=centred)
    with on_device(x):
        norm_kernel[(-(-rows // constants["ROWS"]),)](
            x, weight, weight if bias is None else bias, out, eps, rows, HAS_BIAS=bias is not None, **constants
        )
    return out


@norm.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


@library.custom_op("imprint::norm_gradient", mutates_args=())
def norm_gradient(
    x: Tensor,
    weight: Tensor,
    grad: Tensor,
    residual_grad: Tensor | None,
    sum_grad: Tensor | None,
    factor: float,
    eps: float,
    offset: float,
    centred: bool,  # noqa: FBT001
) -> Tensor:
    """The gradient of x (..., C) from that of its norm, `grad` plus `residual_grad` times a factor, and from its own, `sum_grad`."""
    from imprint.kernels.norms_kernels import norm_gradient_kernel

    x, grad = x.contiguous(), grad.contiguous()
    residual_grad, sum_grad = (None if one is None else one.contiguous() for one in (residual_grad, sum_grad))
    out = torch.empty_like(x)
    rows, constants = x.numel() // x.shape[-1], _constants(x, offset, centred=centred)
    with on_device(x):
        norm_gradient_kernel[(-(-rows // constants["ROWS"]),)](
            x, weight, grad, grad if residual_grad is None else residual_grad, grad if sum_grad is None else sum_grad, out,
            factor, eps, rows,
            HAS_RESIDUAL=residual_grad is not None, HAS_SUM=sum_grad is not None, **constants,
        )  # fmt: skip
    return out


@norm_gradient.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


def _constants(x: Tensor, offset: float, *, centred: bool) -> dict[str, Any]:
    """What the kernels over rows are compiled for: short rows share a program."""
    block = power_of_two(x.shape[-1])
    rows = max(1, BLOCK // block)
    return {
        "C": x.shape[-1],
        "BLOCK_C": block,
        "ROWS": rows,
        "CENTRED": centred,
        "OFFSET": offset,
        "num_warps": min(16, max(1, block * rows // 512)),
    }


class ResidualScale:
    """Factor by which a later sum multiplies this norm's result as its own term; the backward pass multiplies its gradient by it."""

    factor: float = 1.0


class AddNorm(torch.autograd.Function):
    """The sum, its norm, and the norm again, for a residual that a later sum adds: each with a gradient of its own, added in one pass."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        """As `add_norm`; the last inputs are the `ResidualScale` of x, if x is the result of a norm, and that of the result."""
        x, factor, y, weight, bias, eps, offset, centred, before, ctx.residual = inputs
        total, out = add_norm(x, factor, y, weight, bias, eps, offset, centred)
        ctx.save_for_backward(total, weight)
        ctx.numbers, ctx.factor = (eps, offset, centred), factor
        if before is not None:
            before.factor, ctx.factor = factor, 1.0  # the norm before multiplies by it
        ctx.set_materialize_grads(False)
        return total, out, out.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The gradients of x and y."""
        (total, weight), (sum_grad, grad, residual_grad) = ctx.saved_tensors, grads
        factor = ctx.residual.factor
        if grad is None and residual_grad is not None:
            grad, residual_grad = residual_grad * factor, None
        if grad is not None:
            sum_grad = norm_gradient(total, weight, grad, residual_grad, sum_grad, factor, *ctx.numbers)
        if sum_grad is None:
            return (None,) * 10
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = sum_grad if ctx.factor == 1 else sum_grad * ctx.factor
        return x_grad, None, sum_grad, *[None] * 7


class Norm(torch.autograd.Function):
    """A norm alone."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """As `norm`."""
        x, weight, bias, *numbers = inputs
        ctx.save_for_backward(x, weight)
        ctx.numbers = numbers
        out: Tensor = norm(x, weight, bias, *numbers)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """The gradient of x."""
        x, weight = ctx.saved_tensors
        return norm_gradient(x, weight, grads[0], None, None, 1.0, *ctx.numbers), *[None] * 5
