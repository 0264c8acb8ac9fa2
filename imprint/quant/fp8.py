"""FP8: numbers of 8 bits with a scale for every row, which tensor cores of recent GPUs multiply as they are. A format of Imprint's own.

Legend: N rows (output features), K columns (input features).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from imprint.kernels.quantize_rows import FP8, LARGEST
from imprint.messages import Bilingual
from imprint.quant.group_int4 import METHOD
from imprint.quant.weight_format import SCALE, WEIGHT, FormatTensor, WeightFormat, quantize_in_chunks

TRANSPOSED = "transposed"
"""What the gradient of an input is computed from: the same numbers as (K, N)."""
ONES = "ones"
"""Its scales (K,): the gradient of an output is multiplied by the scales of the rows before it is rounded."""

FEW_BLOCKS = 4
"""A network of at most so many is quantized whole: without its ends, half of it or less would be."""


@dataclass(frozen=True)
class Fp8(WeightFormat):
    """Numbers of float8_e4m3fn and one fp32 scale a row, whose largest magnitude is 448 times the scale.

    The numbers are kept as uint8 (N, K), which files and all operations know; scales are (N,).
    """

    plain_ends: int = 1
    """Blocks at each end whose linears stay in 16 bits, since rounding those adds most to losses. 0 in folders of the first form."""

    @property
    def name(self) -> Literal["fp8"]:
        """`fp8`."""
        return "fp8"

    @property
    def fields(self) -> dict[str, Any]:
        """Where other programs look for a quantization, and refuse a method that they do not know."""
        ends = {"plain_ends": self.plain_ends} if self.plain_ends else {}
        return {"quantization_config": {"quant_method": METHOD, "format": self.name, "bits": 8, **ends}}

    def for_block(self, index: int, count: int) -> "Fp8 | None":
        """None for the first and the last block of a network of more than a few."""
        return self if count <= FEW_BLOCKS or self.plain_ends <= index < count - self.plain_ends else None

    def format_tensors(self, rows: int, columns: int) -> dict[str, FormatTensor]:
        """Numbers and scales."""
        return {WEIGHT: FormatTensor((rows, columns), torch.uint8), SCALE: FormatTensor((rows,), torch.float32)}

    def width_problem(self, columns: int) -> Bilingual | None:  # noqa: ARG002
        """None: widths that GPUs do not multiply are dequantized."""
        return None

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        """A weight (N, K) -> numbers and scales, computed in fp32. The scale of a row that is not finite is not finite."""
        return quantize_in_chunks(weight, self._quantize_rows)

    def _quantize_rows(self, weight: Tensor) -> dict[str, Tensor]:
        weight = weight.float()
        largest = weight.abs().amax(-1)
        scale = largest / largest.new_tensor(LARGEST)  # by a number a GPU would multiply with its rounded reciprocal
        numbers = (weight / scale[:, None]).nan_to_num_(0).clamp_(-LARGEST, LARGEST)  # a row of zeros gives 0 / 0
        return {WEIGHT: numbers.to(FP8).view(torch.uint8), SCALE: scale}

    def dequantize(self, tensors: Mapping[str, Tensor], rows: slice | Tensor, dtype: torch.dtype) -> Tensor:
        """The exact product of number and scale, rounded once."""
        numbers, scale = tensors[WEIGHT][rows].view(FP8), tensors[SCALE][rows, None]
        # 16 bits hold every number exactly; the product is computed in fp32
        exact = numbers.to(dtype)
        return torch.mul(exact, scale if dtype.itemsize < 8 else scale.to(dtype), out=exact)

    def backward_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The numbers along the other axis, as GPUs multiply them: as much memory as the weight has."""
        weight = tensors[WEIGHT]
        return {TRANSPOSED: weight.t().contiguous(), ONES: torch.ones(weight.shape[1], device=weight.device)}
