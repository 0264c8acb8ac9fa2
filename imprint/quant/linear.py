"""Layers with quantized weights of any format, computed by the first kernel that supports them.

Legend: N rows (output features), K columns (input features), V vocabulary size, C hidden size, T tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor, nn

from imprint.quant.kernels import KERNELS, PLAIN_KERNELS, LinearKernel
from imprint.quant.scaled_matmul import backward_tensors
from imprint.quant.triton_kernels import QuantizedMatmul, dequantized
from imprint.quant.weight_format import StoredWeight, WeightFormat

HEAD_CHUNK_ROWS = 2**14
"""Rows of an LM head multiplied at a time where they are dequantized."""


class QuantizedWeight(nn.Module):
    """A frozen weight (N, K) in a weight format, whose tensors are its buffers."""

    weight: Tensor
    """The tensor that every format has."""
    kernels: tuple[LinearKernel, ...] = KERNELS
    """In order of preference; the last one supports every product."""

    def __init__(self, rows: int, columns: int, weight_format: WeightFormat) -> None:
        super().__init__()
        self.rows = rows
        self.columns = columns
        self.weight_format = weight_format
        self.format_tensors = weight_format.format_tensors(rows, columns)
        """Shape and dtype of the format's tensors, by name."""
        for name, tensor in self.format_tensors.items():
            self.register_buffer(name, tensor.empty())
        self.backward_tensors: dict[str, Tensor] = {}
        """What kernels need beside the format's tensors for the gradient of an input; files have none of it."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the format, by name."""
        return {name: self.get_buffer(name) for name in self.format_tensors}

    @tensors.setter
    def tensors(self, tensors: dict[str, Tensor]) -> None:
        assert tensors.keys() == self.format_tensors.keys()
        for name, tensor in tensors.items():
            setattr(self, name, tensor)

    def prepare_backward(self, dtype: torch.dtype) -> None:
        """Keep what kernels need for the gradient of an input of this dtype, which stays on this device."""
        self.backward_tensors = {} if self.kernels == PLAIN_KERNELS else backward_tensors(self.weight_format, self.tensors, dtype)

    def dequantize(self, dtype: torch.dtype, rows: slice | Tensor = slice(None)) -> Tensor:
        """These rows of the weight in `dtype`; (N, K) for all."""
        return self.weight_format.dequantize(self.tensors, rows, dtype)

    def dequantize_rows(self, dtype: torch.dtype, rows: range) -> Tensor:
        """Neighbouring rows of the weight in `dtype`, by a kernel where there is one."""
        weight = StoredWeight(self.weight_format, self.tensors, self.columns, rows)
        return weight.dequantize(dtype) if self.kernels == PLAIN_KERNELS else dequantized(weight, dtype)

    def multiply(self, x: Tensor, bias: Tensor | None = None, rows: range | None = None) -> Tensor:
        """X (T, K) -> (T, N), or a column for each of these rows."""
        tensors = self.tensors | self.backward_tensors
        weight = StoredWeight(self.weight_format, tensors, self.columns, range(self.rows) if rows is None else rows)
        return self._kernel(x, weight).matmul(x, weight, bias)

    def _kernel(self, x: Tensor, weight: StoredWeight) -> LinearKernel:
        """The first kernel that supports the product."""
        return next(kernel for kernel in self.kernels if kernel.supports(x, weight))

    def extra_repr(self) -> str:
        """The arguments shown when the network is printed."""
        return f"{self.rows}, {self.columns}, {self.weight_format.title}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT001, FBT002
        """As in every module, but the format's tensors keep their dtype: `network.bfloat16()` changes the compute dtype, not the format."""
        before, self.backward_tensors = self.tensors, {}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, tensor in self.tensors.items():
            if tensor.dtype != before[name].dtype:
                setattr(self, name, before[name].to(tensor.device))
        return self


class QuantizedLinear(QuantizedWeight):
    """A linear layer with a frozen quantized weight; gradients go to its input only."""

    def __init__(self, in_features: int, out_features: int, weight_format: WeightFormat, *, bias: bool = True) -> None:
        super().__init__(out_features, in_features, weight_format)
        self.in_features, self.out_features = in_features, out_features  # as nn.Linear names them
        self.bias = nn.Parameter(torch.empty(out_features), requires_grad=False) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(T, K) -> (T, N)."""
        return self.multiply(x, self.bias)


def make_linear(
    in_features: int, out_features: int, weight_format: WeightFormat | None, *, bias: bool = True
) -> nn.Linear | QuantizedLinear:
    """A linear layer, quantized unless `weight_format` is None."""
    if weight_format is None:
        return nn.Linear(in_features, out_features, bias=bias)
    return QuantizedLinear(in_features, out_features, weight_format, bias=bias)


def prepare_backward(network: nn.Module, dtype: torch.dtype) -> None:
    """Keep what kernels need beside the frozen quantized weights of a network that is tuned in this dtype."""
    for module in network.modules():
        if isinstance(module, QuantizedWeight):
            module.prepare_backward(dtype)


@contextmanager
def dequantized_products(network: nn.Module) -> Iterator[None]:
    """Inside this block every product is computed from dequantized weights, without other rounding, by plain PyTorch."""
    before = [(module, module.kernels) for module in network.modules() if isinstance(module, QuantizedWeight)]
    for module, _ in before:
        module.kernels = PLAIN_KERNELS
    try:
        yield
    finally:
        for module, kernels in before:
            module.kernels = kernels


class QuantizedEmbedding(QuantizedWeight):
    """A quantized token embedding (V, C), and the head tied to it."""

    def forward(self, ids: Tensor) -> Tensor:
        """(T,) -> (T, C), fp16."""
        return self.dequantize(torch.float16, ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """(T, C) -> (T, V); one chunk of the vocabulary at a time, unless the stored integers are multiplied as they are."""
        whole = StoredWeight(self.weight_format, self.tensors, self.columns, range(self.rows))
        if isinstance(self._kernel(hidden, whole), QuantizedMatmul):
            return self.multiply(hidden)
        starts = range(0, self.rows, HEAD_CHUNK_ROWS)
        return torch.cat([self.multiply(hidden, rows=range(start, min(start + HEAD_CHUNK_ROWS, self.rows))) for start in starts], -1)
