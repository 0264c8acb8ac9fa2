"""Products with a quantized weight: the kernels, and the one in plain PyTorch that is the reference for every other.

Legend: N rows (output features), K columns (input features) of a weight, T tokens.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from imprint.quant.scaled_matmul import ScaledMatmul
from imprint.quant.triton_kernels import QuantizedMatmul, TritonDequantMatmul
from imprint.quant.weight_format import StoredWeight

CPU_CHUNK_WEIGHTS = 2**21
"""Weights dequantized at a time on a CPU, so that they fit its cache: ten times as fast. A GPU dequantizes a whole layer."""


class LinearKernel(Protocol):
    """One way to multiply by a quantized weight."""

    def supports(self, x: Tensor, weight: StoredWeight) -> bool:
        """Whether this kernel computes this product here, with the result of DequantMatmul up to rounding.

        `weight` says format, device, rows and columns; `x` compute dtype, number of tokens, and whether it needs a gradient.
        """

    def matmul(self, x: Tensor, weight: StoredWeight, bias: Tensor | None) -> Tensor:
        """X (T, K) times the weight (N, K), plus the bias (N,) -> (T, N). Gradients go to x only."""


class DequantMatmul:
    """Dequantizes the weight for every product, of any format on any device; nothing is compiled."""

    def supports(self, x: Tensor, weight: StoredWeight) -> bool:  # noqa: ARG002
        """Always."""
        return True

    def matmul(self, x: Tensor, weight: StoredWeight, bias: Tensor | None) -> Tensor:
        """See LinearKernel.matmul."""
        # a view: an activation that was put off is computed, so that autograd sees a tensor
        out: Tensor = _Product.apply(x.view(x.shape), weight, bias)  # type: ignore[no-untyped-call]
        return out


KERNELS: tuple[LinearKernel, ...] = (QuantizedMatmul(), TritonDequantMatmul(), ScaledMatmul(), DequantMatmul())
"""In order of preference; the last one supports every product."""
PLAIN_KERNELS: tuple[LinearKernel, ...] = KERNELS[-1:]
"""Plain PyTorch."""


class _Product(torch.autograd.Function):
    """x times the dequantized weight, which is freed after the product and dequantized again for the gradient.

    The backward pass needs only the layer's own buffers, so nothing is saved, and activation checkpointing need not recompute the product.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: StoredWeight, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        parts = _parts(weight)
        if len(parts) == 1:
            return functional.linear(x, weight.dequantize(x.dtype), bias)
        out = torch.cat([x @ part.dequantize(x.dtype).t() for part in parts], -1)
        return out if bias is None else out.add_(bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """The gradient of the input; weight and bias are frozen."""
        (grad,) = grads
        parts = _parts(ctx.weight)
        grads = grad.split(len(parts[0].rows), -1)
        first, *others = (part @ weight.dequantize(grad.dtype) for part, weight in zip(grads, parts, strict=True))
        return sum(others, first), None, None


def _parts(weight: StoredWeight) -> list[StoredWeight]:
    """The weight in parts to dequantize at a time."""
    return weight.split(max(1, CPU_CHUNK_WEIGHTS // weight.columns)) if weight.device.type == "cpu" else [weight]
