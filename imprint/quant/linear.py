"""ChatGLM's quantised weights: small integers with one scale a row, made into numbers again where they are used.

Plain PyTorch, so it runs wherever PyTorch does; nothing is compiled. Legend: N rows (outputs), K columns (inputs), V vocabulary, C hidden
size, T tokens. Source of the format: quantization.py of THUDM/chatglm-6b and THUDM/chatglm-6b-int4, whose scales are fp16, and of
THUDM/chatglm2-6b and THUDM/chatglm3-6b, whose scales have the type of the weights they were made from (fp16 in the official folders).
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from imprint.quant.formats import SCALE, dequantize

NUMBERS_AT_ONCE = 2**21
"""Weights that are numbers at one time on a CPU: what stays in its cache is made ten times as fast. A GPU takes a layer at once."""
HEAD_ROWS_AT_ONCE = 2**14
"""Rows of a vocabulary head that are numbers at one time."""


class QuantizedWeight(nn.Module):
    """A frozen weight (N, K) held as integers and scales, under the original's names."""

    weight: Tensor
    weight_scale: Tensor

    def __init__(self, rows: int, columns: int, bits: int, *, scale_type: torch.dtype | None = torch.float16) -> None:
        super().__init__()
        self.rows = rows
        self.columns = columns
        self.bits = bits
        self.scale_type = scale_type
        """The type of the scales; None takes that of the weights they are made from."""
        self.register_buffer("weight", torch.empty(rows, columns * bits // 8, dtype=torch.int8))
        self.register_buffer(SCALE, torch.empty(rows, dtype=scale_type or torch.float16))

    def numbers(self, dtype: torch.dtype, rows: slice | Tensor = slice(None)) -> Tensor:
        """These rows as numbers, (N, K)."""
        return dequantize(self.weight[rows], self.weight_scale[rows], self.bits, dtype)

    def extra_repr(self) -> str:
        """What stands between the brackets when a network is printed."""
        return f"{self.rows}, {self.columns}, bits={self.bits}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT001, FBT002
        """Move as every module does, but keep the scales' type: `network.bfloat16()` is about what is computed, not about the format."""
        scale = self.weight_scale
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.weight_scale.dtype != scale.dtype:
            self.weight_scale = scale.to(self.weight_scale.device)
        return self


class QuantizedLinear(QuantizedWeight):
    """A linear layer whose weight is quantised and which passes on a gradient to its input alone."""

    def __init__(self, columns: int, rows: int, bits: int, *, bias: bool = True, scale_type: torch.dtype | None = torch.float16) -> None:
        super().__init__(rows, columns, bits, scale_type=scale_type)
        self.in_features, self.out_features = columns, rows  # what nn.Linear calls them
        self.bias = nn.Parameter(torch.empty(rows), requires_grad=False) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, N)."""
        out: Tensor = _Product.apply(x, self.weight, self.weight_scale, self.bits, self.bias)  # type: ignore[no-untyped-call]
        return out


def linear(
    columns: int, rows: int, bits: int | None, *, bias: bool = True, scale_type: torch.dtype | None = torch.float16
) -> nn.Linear | QuantizedLinear:
    """A linear layer quantised to so many bits, or of plain numbers where there are none."""
    return QuantizedLinear(columns, rows, bits, bias=bias, scale_type=scale_type) if bits else nn.Linear(columns, rows, bias=bias)


class QuantizedEmbedding(QuantizedWeight):
    """The vocabulary (V, C), quantised: the rows of ids, and the head that is tied to them."""

    def forward(self, ids: Tensor) -> Tensor:
        """(T,) -> (T, C), fp16."""
        return self.numbers(torch.float16, ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """(T, C) -> (T, V), a part of the vocabulary at a time."""
        parts = zip(self.weight.split(HEAD_ROWS_AT_ONCE), self.weight_scale.split(HEAD_ROWS_AT_ONCE), strict=True)
        return torch.cat([_Product.apply(hidden, *part, self.bits, None) for part in parts], -1)  # type: ignore[no-untyped-call]


class _Product(torch.autograd.Function):
    """x times the dequantised weight; the numbers live as long as the product takes, and are made again for the gradient.

    What backward needs lies in the layer itself, so nothing is saved: under activation checkpointing no product is computed again for it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, integers: Tensor, scale: Tensor, bits: int, bias: Tensor | None) -> Tensor:
        ctx.integers, ctx.scale, ctx.bits = integers, scale, bits
        rows = _rows_at_once(integers, bits)
        if rows >= len(integers):
            return functional.linear(x, dequantize(integers, scale, bits, x.dtype), bias)
        parts = zip(integers.split(rows), scale.split(rows), strict=True)
        out = torch.cat([x @ dequantize(*part, bits, x.dtype).t() for part in parts], -1)
        return out if bias is None else out.add_(bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """The gradient of the input; the weight, the scale and the bias are frozen."""
        (grad,) = grads
        rows = _rows_at_once(ctx.integers, ctx.bits)
        parts = zip(grad.split(rows, -1), ctx.integers.split(rows), ctx.scale.split(rows), strict=True)
        first, *others = (part @ dequantize(integers, scale, ctx.bits, grad.dtype) for part, integers, scale in parts)
        return sum(others, first), None, None, None, None


def _rows_at_once(integers: Tensor, bits: int) -> int:
    return len(integers) if integers.is_cuda else max(1, NUMBERS_AT_ONCE * bits // (8 * integers.shape[1]))
