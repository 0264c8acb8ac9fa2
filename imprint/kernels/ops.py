"""The kernels as operations of PyTorch: torch.compile keeps them in its graphs, and a CUDA graph captures them.

Each takes a weight (N, K) as the fields of `QuantizedRows`: integers, scales, bits, group, and its rows from `first` to before `end`.
Legend: N rows (output features), K columns (input features).
"""

from typing import Any

import torch
from torch import Tensor, library
from torch.nn import functional


@library.custom_op("imprint::dequantize", mutates_args=())
def dequantize(integers: Tensor, scales: Tensor, bits: int, group: int, first: int, end: int, dtype: torch.dtype) -> Tensor:
    """The rows of the weight in `dtype`, (rows, K)."""
    from imprint.kernels import launch

    return launch.dequantize(launch.QuantizedRows(integers, scales, bits, group, range(first, end)), dtype)


@dequantize.register_fake
def _(integers: Tensor, scales: Tensor, bits: int, group: int, first: int, end: int, dtype: torch.dtype) -> Tensor:  # noqa: ARG001
    return integers.new_empty((end - first, integers.shape[1] * 8 // bits), dtype=dtype)


@library.custom_op("imprint::dequantized_linear", mutates_args=())
def dequantized_linear(
    x: Tensor, integers: Tensor, scales: Tensor, bias: Tensor | None, bits: int, group: int, first: int, end: int
) -> Tensor:
    """X (..., K) times the rows, which are dequantized and freed again, plus the bias -> (..., rows). Gradients go to x only."""
    return functional.linear(x, dequantize(integers, scales, bits, group, first, end, x.dtype), bias)


@dequantized_linear.register_fake
def _(x: Tensor, integers: Tensor, scales: Tensor, bias: Tensor | None, bits: int, group: int, first: int, end: int) -> Tensor:  # noqa: ARG001
    return x.new_empty((*x.shape[:-1], end - first))


@library.custom_op("imprint::dequantized_gradient", mutates_args=())
def dequantized_gradient(grad: Tensor, integers: Tensor, scales: Tensor, bits: int, group: int, first: int, end: int) -> Tensor:
    """The gradient of x for that of the output, (..., rows) -> (..., K); the weight is dequantized again."""
    weight: Tensor = dequantize(integers, scales, bits, group, first, end, grad.dtype)
    return grad @ weight


@dequantized_gradient.register_fake
def _(grad: Tensor, integers: Tensor, scales: Tensor, bits: int, group: int, first: int, end: int) -> Tensor:  # noqa: ARG001
    return grad.new_empty((*grad.shape[:-1], integers.shape[1] * 8 // bits))


def _keep_weight(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 - called with these names
    """The weight's own tensors are kept without saving them, so that activation checkpointing need not recompute the product."""
    _, integers, scales, _, *numbers = inputs
    ctx.weight = (integers, scales, *numbers)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needed = ctx.needs_input_grad[0]
    return (dequantized_gradient(grad, *ctx.weight) if needed else None, *[None] * 7)


dequantized_linear.register_autograd(_gradient, setup_context=_keep_weight)


@library.custom_op("imprint::quantized_linear", mutates_args=())
def quantized_linear(
    x: Tensor,
    integers: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    bits: int,
    group: int,
    first: int,
    end: int,
    gelu: bool = False,  # noqa: FBT001, FBT002
) -> Tensor:
    """Up to 64 tokens (..., K) times the rows without dequantizing them, plus the bias -> (..., rows). It has no gradient.

    `gelu`: the tanh approximation of GELU of that, computed in the kernel for one token.
    """
    from imprint.kernels import launch

    weight, flat = launch.QuantizedRows(integers, scales, bits, group, range(first, end)), x.reshape(-1, x.shape[-1])
    if len(flat) == 1 and not launch.suits_batch(weight):
        return launch.quantized_vector(flat, weight, bias, gelu=gelu).view(*x.shape[:-1], end - first)
    out = launch.quantized_batch(flat, weight, bias).view(*x.shape[:-1], end - first)
    return functional.gelu(out, approximate="tanh") if gelu else out


@quantized_linear.register_fake
def _(
    x: Tensor,
    integers: Tensor,  # noqa: ARG001
    scales: Tensor,  # noqa: ARG001
    bias: Tensor | None,  # noqa: ARG001
    bits: int,  # noqa: ARG001
    group: int,  # noqa: ARG001
    first: int,
    end: int,
    gelu: bool = False,  # noqa: ARG001, FBT001, FBT002
) -> Tensor:
    return x.new_empty((*x.shape[:-1], end - first))


@library.custom_op("imprint::dense_linear", mutates_args=())
def dense_linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:  # noqa: FBT001, FBT002
    """One token (..., K) times a weight (N, K) of 16 bits, plus the bias -> (..., N); `gelu` as above. It has no gradient."""
    from imprint.kernels import launch

    return launch.dense_vector(x.reshape(1, -1), weight, bias, gelu=gelu).view(*x.shape[:-1], len(weight))


@dense_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:  # noqa: ARG001, FBT001, FBT002
    return x.new_empty((*x.shape[:-1], len(weight)))
