"""Products with FP8 weights by the tensor cores of a GPU, without dequantizing them: what is multiplied is rounded to FP8, too.

Legend: N rows (output features), K columns (input features) of a weight, T tokens.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from imprint.kernels import available
from imprint.kernels.quantize_rows import FP8
from imprint.kernels.scaled import ScaledWeight, multiply, scaled_linear
from imprint.messages import Bilingual
from imprint.quant.fp8 import ONES, TRANSPOSED, Fp8
from imprint.quant.weight_format import SCALE, WEIGHT, StoredWeight, WeightFormat

MULTIPLE = 16
"""Rows and columns of a weight are multiples of this."""
DTYPES = frozenset({torch.float16, torch.bfloat16})


class ScaledMatmul:
    """Rounds every token to FP8 with a scale of its own, and so the gradient of every output."""

    def supports(self, x: Tensor, weight: StoredWeight) -> bool:
        """Whole FP8 weights on GPUs that multiply FP8; with a gradient if the weight was prepared for it."""
        if not isinstance(weight.weight_format, Fp8) or weight.rows != range(len(weight.tensors[WEIGHT])):
            return False
        if x.requires_grad and torch.is_grad_enabled() and TRANSPOSED not in weight.tensors:
            return False
        return x.numel() > 0 and x.device == weight.device and _multiplies(weight.tensors[WEIGHT], x.dtype)

    def matmul(self, x: Tensor, weight: StoredWeight, bias: Tensor | None) -> Tensor:
        """See LinearKernel.matmul."""
        tensors = weight.tensors
        return scaled_linear(x, ScaledWeight(tensors[WEIGHT], tensors[SCALE], tensors.get(TRANSPOSED), tensors.get(ONES), bias))


def backward_tensors(weight_format: WeightFormat, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """What ScaledMatmul needs beside a weight for the gradient of an input of this dtype; nothing where it computes no product."""
    if not isinstance(weight_format, Fp8) or not _multiplies(tensors[WEIGHT], dtype):
        return {}
    return weight_format.backward_tensors(tensors)


def random_products(rows: int, columns: int, tokens: int, dtype: torch.dtype, device: torch.device) -> Callable[[], None]:
    """Computes a product with a random weight (N, K) and the gradient of T tokens, to be timed; numbers are rounded before."""
    generator = torch.Generator(device)
    weight, transposed, x, grad = (
        torch.randn(shape, dtype=dtype, device=device, generator=generator).to(FP8)
        for shape in ((rows, columns), (columns, rows), (tokens, columns), (tokens, rows))
    )
    of_rows, of_columns, of_tokens = (torch.ones(shape, device=device) for shape in ((rows,), (columns,), (tokens, 1)))

    def compute() -> None:
        multiply((x, of_tokens), weight, of_rows).to(dtype)
        multiply((grad, of_tokens), transposed, of_columns).to(dtype)

    return compute


def fp8_fallback_reason(device: torch.device, dtype: torch.dtype) -> Bilingual | None:
    """Why FP8 weights are dequantized for products in this dtype on a device; None where they are multiplied as they are."""
    if device.type != "cuda":
        return available.NO_GPU
    if dtype not in DTYPES:
        return Bilingual("model.dtype is float32", "model.dtype 为 float32")
    return available.fp8_problem(torch.cuda.current_device() if device.index is None else device.index)


def _multiplies(numbers: Tensor, dtype: torch.dtype) -> bool:
    """Whether the numbers of a weight are multiplied where they are by what has this dtype."""
    fits = numbers.is_contiguous() and all(size % MULTIPLE == 0 for size in numbers.shape)
    return fits and dtype in DTYPES and _usable(numbers.device)


def _usable(device: torch.device) -> bool:
    return device.type == "cuda" and available.fp8_problem(device.index) is None
