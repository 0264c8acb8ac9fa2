"""Products of FP8 numbers with a scale for every row of both, and their gradients.

A GPU multiplies them by torch._scaled_mm; plain PyTorch computes them on a CPU, and is the reference for tests.
Legend: N rows (output features), K columns (input features).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function

from imprint.kernels.quantize_rows import FP8, quantize_rows

GRADIENTS: torch.dtype = FP8
"""What gradients of outputs are rounded to. With a scale for every token they need no wider range, such as that of float8_e5m2, whose
numbers are half as close to each other."""
FAST_SUMS = True
"""Whether GPUs may add up a product in fewer bits, which is faster on Hopper."""


@dataclass(frozen=True)
class ScaledWeight:
    """A frozen weight (N, K)."""

    numbers: Tensor
    """FP8 as uint8, (N, K)."""
    scales: Tensor
    """fp32 (N,)."""
    transposed: Tensor | None
    """The numbers as (K, N), for the gradient of what it multiplies; None where there is none."""
    ones: Tensor | None
    """fp32 (K,), the scales of those."""
    bias: Tensor | None

    def product(self, x: Tensor, *, activated: bool = False) -> Tensor:
        """X (..., K), or the tanh approximation of its GELU, rounded, times the weight -> (..., N)."""
        return _product(quantize_rows(x, activated=activated), self.numbers, self.scales, self.bias, x)

    def gradient(self, grad: Tensor, pre_activation: Tensor | None = None) -> Tensor:
        """The gradient of x; `grad` is that of the output or, where `pre_activation` is given, which is the output, that of its GELU."""
        assert self.transposed is not None
        assert self.ones is not None
        numbers = quantize_rows(grad, self.scales, pre_activation=pre_activation, dtype=GRADIENTS)
        return _product(numbers, self.transposed, self.ones, None, grad)


def scaled_linear(x: Tensor, weight: ScaledWeight) -> Tensor:
    """X (..., K), rounded, times a weight (N, K) -> (..., N). Gradients go to x only."""
    of_mode = has_torch_function((x,))
    out: Tensor = handle_torch_function(scaled_linear, (x,), x, weight) if of_mode else ScaledLinear.apply(x, weight)  # type: ignore[no-untyped-call]
    return out


class ScaledLinear(torch.autograd.Function):
    """A product, for which nothing is saved, so that activation checkpointing need not recompute it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: ScaledWeight) -> Tensor:
        """(..., K) -> (..., N)."""
        ctx.weight = weight
        return weight.product(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """The gradient of x; the weight is frozen."""
        return ctx.weight.gradient(grads[0]), None


class ScaledMlp(torch.autograd.Function):
    """Two products with the tanh approximation of GELU between them, of which only what GELU takes is saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, first: ScaledWeight, second: ScaledWeight) -> Tensor:
        """(..., K) -> (..., N of the second)."""
        hidden = first.product(x)
        ctx.save_for_backward(hidden)
        ctx.weights = first, second
        return second.product(hidden, activated=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """The gradient of x; the weights are frozen."""
        (hidden,), (first, second) = ctx.saved_tensors, ctx.weights
        return first.gradient(second.gradient(grads[0]), pre_activation=hidden), None, None


def _product(x: tuple[Tensor, Tensor], numbers: Tensor, scales: Tensor, bias: Tensor | None, like: Tensor) -> Tensor:
    """Rounded rows times a weight (N, K), in the shape and dtype of the rows before they were rounded."""
    product = _plain if like.device.type == "cpu" else multiply
    out = product(x, numbers.view(FP8), scales, bias).to(like.dtype)
    return out if like.dim() == 2 else out.view(*like.shape[:-1], len(numbers))


def multiply(x: tuple[Tensor, Tensor], numbers: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
    """Rounded rows (T, K), with scales (T, 1), times numbers (N, K) with scales (N,), plus the bias (N,), by a GPU -> bfloat16 (T, N)."""
    of_16_bits = None if bias is None else bias.bfloat16()  # scales of rows give bfloat16 on every card
    return torch._scaled_mm(
        x[0], numbers.t(), scale_a=x[1], scale_b=scales[None], bias=of_16_bits, out_dtype=torch.bfloat16, use_fast_accum=FAST_SUMS
    )


def _plain(x: tuple[Tensor, Tensor], numbers: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    out = functional.linear(x[0].float(), numbers.float()).mul_(x[1]).mul_(scales)
    return out if bias is None else out.add_(bias)
