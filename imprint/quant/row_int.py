"""ChatGLM's weight formats: INT8 and INT4 with one scale a row.

Legend: N rows (output features), K columns (input features). Source: quantization.py of THUDM/chatglm-6b and THUDM/chatglm-6b-int4, whose
scales are fp16, and of THUDM/chatglm2-6b and THUDM/chatglm3-6b, whose scales have the dtype of the weights (fp16 in the official folders).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from imprint.messages import Bilingual
from imprint.quant.nibbles import pack, scaled
from imprint.quant.weight_format import SCALE, WEIGHT, FormatTensor, WeightFormat, quantize_in_chunks

SHARED_BYTE = Bilingual("is odd, but at 4 bits two columns share a byte", "是奇数，而 4 位量化时每两列共用一个字节")


@dataclass(frozen=True)
class RowInt(WeightFormat):
    """Integers of 8 or 4 bits and one scale a row, bit for bit as the original stores them.

    Integers are int8 (N, K); at 4 bits (N, K / 2), two columns per byte, first one high. Scales are (N,).
    """

    bits: Literal[8, 4]
    scale_dtype: torch.dtype | None = torch.float16
    """None for the dtype of the weights."""

    @property
    def name(self) -> Literal[8, 4]:
        """The number of bits."""
        return self.bits

    @property
    def fields(self) -> dict[str, Any]:
        """The original's; its embedding is never quantized here."""
        return {"quantization_bit": self.bits, "quantization_embeddings": False}

    def format_tensors(self, rows: int, columns: int) -> dict[str, FormatTensor]:
        """Integers and scales."""
        return {WEIGHT: FormatTensor((rows, columns * self.bits // 8), torch.int8), SCALE: FormatTensor((rows,), self.scale_dtype)}

    def width_problem(self, columns: int) -> Bilingual | None:
        """Odd widths at 4 bits."""
        return SHARED_BYTE if self.bits == 4 and columns % 2 else None

    def with_scales_like_weights(self) -> "RowInt":
        """As ChatGLM2's code computes them."""
        return replace(self, scale_dtype=None)

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        """A weight (N, K) -> integers and scales.

        The scale is the row's largest magnitude over the largest integer, in `scale_dtype`. The division is in the weight's own dtype, as
        in the original: fp16 and fp32 give some different integers. bf16 is divided in fp32, because in bf16 the largest quotient rounds to
        128, which int8 does not have. The scale of a row that is not finite is not finite.
        """
        scale_dtype = self.scale_dtype or weight.dtype
        return quantize_in_chunks(weight, lambda rows: self._quantize_rows(rows, scale_dtype))

    def _quantize_rows(self, weight: Tensor, scale_dtype: torch.dtype) -> dict[str, Tensor]:
        if weight.dtype == torch.bfloat16:
            weight = weight.float()
        largest = 2 ** (self.bits - 1) - 1
        scale = (weight.abs().amax(-1) / largest).to(scale_dtype)
        # a row of zeros gives 0 / 0; a subnormal scale is so coarse that the quotient may leave the range and would wrap around
        integers = (weight / scale[:, None]).round_().nan_to_num_(0).clamp_(-largest, largest).to(torch.int8)
        return {WEIGHT: integers if self.bits == 8 else pack(integers), SCALE: scale}

    def dequantize(self, tensors: Mapping[str, Tensor], rows: slice | Tensor, dtype: torch.dtype) -> Tensor:
        """The exact product of integer and scale in fp32, rounded to the scale's dtype as in the original."""
        integers, scale = tensors[WEIGHT][rows], tensors[SCALE][rows]
        factor = scale.float()[:, None]
        if self.bits == 4:
            return scaled(integers, factor, scale.dtype).to(dtype)
        product = torch.empty_like(integers, dtype=scale.dtype)
        return torch.mul(integers, factor, out=product).to(dtype)
