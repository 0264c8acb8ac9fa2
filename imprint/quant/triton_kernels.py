"""Products with a quantized weight by Triton kernels, on a GPU.

Legend: N rows (output features), K columns (input features) of a weight, T tokens.
"""

import torch
from torch import Tensor

from imprint.kernels import available, ops
from imprint.kernels.tiles import BATCH_TOKENS
from imprint.quant.group_int4 import GROUP, GroupInt4
from imprint.quant.row_int import RowInt
from imprint.quant.weight_format import SCALE, WEIGHT, StoredWeight


class QuantizedMatmul:
    """Multiplies up to 64 tokens by the stored integers, which is what decoding needs; without a gradient."""

    def supports(self, x: Tensor, weight: StoredWeight) -> bool:
        """Few tokens on a GPU."""
        tokens = x.shape[:-1].numel()
        if tokens > BATCH_TOKENS or (x.requires_grad and torch.is_grad_enabled()):
            return False
        return _fits(x, weight) and available.usable(x.device.index, x.dtype, matrix=tokens > 1)

    def matmul(self, x: Tensor, weight: StoredWeight, bias: Tensor | None) -> Tensor:
        """See LinearKernel.matmul."""
        out: Tensor = ops.quantized_linear(x, weight.tensors[WEIGHT], weight.tensors[SCALE], bias, *_numbers(weight))
        return out


class TritonDequantMatmul:
    """Dequantizes the weight in one pass over memory, for products with many tokens and for training."""

    def supports(self, x: Tensor, weight: StoredWeight) -> bool:
        """Any product on a GPU."""
        return _fits(x, weight) and available.usable(x.device.index, x.dtype)

    def matmul(self, x: Tensor, weight: StoredWeight, bias: Tensor | None) -> Tensor:
        """See LinearKernel.matmul."""
        out: Tensor = ops.dequantized_linear(x, weight.tensors[WEIGHT], weight.tensors[SCALE], bias, *_numbers(weight))
        return out


def dequantized(weight: StoredWeight, dtype: torch.dtype) -> Tensor:
    """The rows of the weight in `dtype`, by a kernel where there is one."""
    device = weight.device
    if device.type != "cuda" or not _is_whole_words(weight) or not available.usable(device.index, dtype):
        return weight.dequantize(dtype)
    out: Tensor = ops.dequantize(weight.tensors[WEIGHT], weight.tensors[SCALE], *_numbers(weight), dtype)
    return out


def _fits(x: Tensor, weight: StoredWeight) -> bool:
    """Whether x and the weight are on a GPU, and the kernels know its format."""
    return x.numel() > 0 and _on_gpu(x, weight) and _is_whole_words(weight)


def _is_whole_words(weight: StoredWeight) -> bool:
    """Whether the weight is in a format of which every row is whole words."""
    if not isinstance(weight.weight_format, RowInt | GroupInt4):
        return False
    return weight.tensors[WEIGHT].is_contiguous() and weight.columns % (32 // _bits(weight)) == 0


def _on_gpu(x: Tensor, weight: StoredWeight) -> bool:
    return x.is_cuda and weight.device == x.device


def _bits(weight: StoredWeight) -> int:
    return weight.weight_format.bits if isinstance(weight.weight_format, RowInt) else 4


def _numbers(weight: StoredWeight) -> tuple[int, int, int, int]:
    """Bits, columns that share a scale (0: a row), and the rows."""
    group = GROUP if isinstance(weight.weight_format, GroupInt4) else 0
    return _bits(weight), group, weight.rows.start, weight.rows.stop
