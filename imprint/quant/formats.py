"""ChatGLM's weight formats: INT8 and INT4 with one scale a row.

Legend: N rows (output features), K columns (input features). Source: quantization.py of THUDM/chatglm-6b and THUDM/chatglm-6b-int4, whose
scales are fp16, and of THUDM/chatglm2-6b and THUDM/chatglm3-6b, whose scales have the dtype of the weights (fp16 in the official folders).
"""

import torch
from torch import Tensor

BITS = (8, 4)
"""The formats, by bits per integer."""
SCALE = "weight_scale"
"""Name of the scales that belong to a `weight`."""
CHUNK_WEIGHTS = 2**20
"""Weights quantized at a time, to limit the memory for intermediate results."""


def quantize(weight: Tensor, bits: int, scale_dtype: torch.dtype | None = torch.float16) -> tuple[Tensor, Tensor]:
    """A weight (N, K) -> integers and scales (N,). Integers are int8 (N, K); at 4 bits (N, K / 2), two columns per byte, first one high.

    The scale is the row's largest magnitude over the largest integer, in `scale_dtype`, or the weight's own dtype if None. The division is
    in the weight's own dtype, as in the original: fp16 and fp32 give some different integers. bf16 is divided in fp32, because in bf16 the
    largest quotient rounds to 128, which int8 does not have. The scale of a row that is not finite is not finite.
    """
    chunks = weight.split(max(1, CHUNK_WEIGHTS // weight.shape[1]))
    parts = [_quantize_rows(chunk, bits, scale_dtype or weight.dtype) for chunk in chunks]
    return torch.cat([integers for integers, _ in parts]), torch.cat([scale for _, scale in parts])


def _quantize_rows(weight: Tensor, bits: int, scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    assert bits in BITS
    if weight.dtype == torch.bfloat16:
        weight = weight.float()
    largest = 2 ** (bits - 1) - 1
    scale = (weight.abs().amax(-1) / largest).to(scale_dtype)
    # a row of zeros gives 0 / 0; a subnormal scale is so coarse that the quotient may leave the range and would wrap around
    integers = (weight / scale[:, None]).round_().nan_to_num_(0).clamp_(-largest, largest).to(torch.int8)
    return integers if bits == 8 else (integers[:, ::2] << 4) | (integers[:, 1::2] & 15), scale


def dequantize(integers: Tensor, scale: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Integers and scales -> the weight (N, K) in `dtype`: the exact product in fp32, rounded to the scale's dtype as in the original."""
    factor = scale.float()[:, None]
    if bits == 8:
        product = torch.empty_like(integers, dtype=scale.dtype)
        return torch.mul(integers, factor, out=product).to(dtype)
    product = torch.empty((*integers.shape, 2), dtype=scale.dtype, device=integers.device)
    torch.mul(integers & -16, factor / 16, out=product[..., 0])  # each nibble times 16: one operation instead of two
    torch.mul(integers << 4, factor / 16, out=product[..., 1])
    return product.flatten(-2).to(dtype)
