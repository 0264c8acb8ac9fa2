"""Layers with quantized weights, which are dequantized when used: plain PyTorch on any device, nothing is compiled.

Legend: N rows (output features), K columns (input features), V vocabulary size, C hidden size, T tokens.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from imprint.quant.formats import SCALE, dequantize

CPU_CHUNK_WEIGHTS = 2**21
"""Weights dequantized at a time on a CPU, so that they fit its cache: ten times as fast. A GPU dequantizes a whole layer."""
HEAD_CHUNK_ROWS = 2**14
"""Rows of an LM head dequantized at a time."""


class QuantizedWeight(nn.Module):
    """A frozen weight (N, K) stored as integers and scales, with the original's names."""

    weight: Tensor
    weight_scale: Tensor

    def __init__(self, rows: int, columns: int, bits: int, *, scale_dtype: torch.dtype | None = torch.float16) -> None:
        super().__init__()
        self.rows = rows
        self.columns = columns
        self.bits = bits
        self.scale_dtype = scale_dtype
        """The dtype of the scales; None takes that of the weights they are computed from."""
        self.register_buffer("weight", torch.empty(rows, columns * bits // 8, dtype=torch.int8))
        self.register_buffer(SCALE, torch.empty(rows, dtype=scale_dtype or torch.float16))

    def dequantize(self, dtype: torch.dtype, rows: slice | Tensor = slice(None)) -> Tensor:
        """These rows of the weight in `dtype`; (N, K) for all."""
        return dequantize(self.weight[rows], self.weight_scale[rows], self.bits, dtype)

    def extra_repr(self) -> str:
        """The arguments shown when the network is printed."""
        return f"{self.rows}, {self.columns}, bits={self.bits}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT001, FBT002
        """As in every module, but the scales keep their dtype: `network.bfloat16()` changes the compute dtype, not the format."""
        scale = self.weight_scale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.weight_scale.dtype != scale.dtype:
            self.weight_scale = scale.to(self.weight_scale.device)
        return self


class QuantizedLinear(QuantizedWeight):
    """A linear layer with a frozen quantized weight; gradients go to its input only."""

    def __init__(
        self, in_features: int, out_features: int, bits: int, *, bias: bool = True, scale_dtype: torch.dtype | None = torch.float16
    ) -> None:
        super().__init__(out_features, in_features, bits, scale_dtype=scale_dtype)
        self.in_features, self.out_features = in_features, out_features  # as nn.Linear names them
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, N)."""
        out: Tensor = DequantMatmul.apply(x, self.weight, self.weight_scale, self.bits, self.bias)  # type: ignore[no-untyped-call]
        return out


def make_linear(
    in_features: int, out_features: int, bits: int | None, *, bias: bool = True, scale_dtype: torch.dtype | None = torch.float16
) -> nn.Linear | QuantizedLinear:
    """A linear layer, quantized unless `bits` is None."""
    if bits is None:
        return nn.Linear(in_features, out_features, bias=bias)
    return QuantizedLinear(in_features, out_features, bits, bias=bias, scale_dtype=scale_dtype)


class QuantizedEmbedding(QuantizedWeight):
    """A quantized token embedding (V, C), and the head tied to it."""

    def forward(self, ids: Tensor) -> Tensor:
        """(T,) -> (T, C), fp16."""
        return self.dequantize(torch.float16, ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """(T, C) -> (T, V), one chunk of the vocabulary at a time."""
        parts = zip(self.weight.split(HEAD_CHUNK_ROWS), self.weight_scale.split(HEAD_CHUNK_ROWS), strict=True)
        return torch.cat([DequantMatmul.apply(hidden, *part, self.bits, None) for part in parts], -1)  # type: ignore[no-untyped-call]


class DequantMatmul(torch.autograd.Function):
    """x times the dequantized weight, which is freed after the product and dequantized again for the gradient.

    The backward pass needs only the layer's own buffers, so nothing is saved, and activation checkpointing need not recompute the product.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, integers: Tensor, scale: Tensor, bits: int, bias: Tensor | None) -> Tensor:
        """X (T, K), integers and scales of a weight (N, K), bias (N,) -> (T, N)."""
        ctx.integers, ctx.scale, ctx.bits = integers, scale, bits
        rows = _chunk_rows(integers, bits)
        if rows >= len(integers):
            return functional.linear(x, dequantize(integers, scale, bits, x.dtype), bias)
        parts = zip(integers.split(rows), scale.split(rows), strict=True)
        out = torch.cat([x @ dequantize(*part, bits, x.dtype).t() for part in parts], -1)
        return out if bias is None else out.add_(bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """The gradient of the input; weight, scale and bias are frozen."""
        (grad,) = grads
        rows = _chunk_rows(ctx.integers, ctx.bits)
        parts = zip(grad.split(rows, -1), ctx.integers.split(rows), ctx.scale.split(rows), strict=True)
        first, *others = (part @ dequantize(integers, scale, ctx.bits, grad.dtype) for part, integers, scale in parts)
        return sum(others, first), None, None, None, None


def _chunk_rows(integers: Tensor, bits: int) -> int:
    """Rows of a weight to dequantize at a time."""
    return len(integers) if integers.is_cuda else max(1, CPU_CHUNK_WEIGHTS * bits // (8 * integers.shape[1]))
