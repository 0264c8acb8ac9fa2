"""ChatGLM's weight formats: INT8 and INT4 with one scale a row. Legend: N rows (outputs), K columns (inputs)."""

import torch
from torch import Tensor

BITS = (8, 4)


SCALE = "weight_scale"
"""What the scales of a `weight` are called beside it."""


QUANTIZED_AT_ONCE = 2**20
"""Weights that are divided at once: what the division needs beside the result stays small."""


def quantize(weight: Tensor, bits: int, scale_type: torch.dtype | None = torch.float16) -> tuple[Tensor, Tensor]:
    """Integers and scales (N,) of a weight (N, K): int8 (N, K), or at 4 bits (N, K / 2), two columns a byte, the first one high.

    The scale is the row's largest magnitude over the largest integer, in `scale_type`; None takes the weight's own type. Divided in the
    weight's own type, as the original does: fp16 and fp32 give other integers here and there; bf16 is divided in fp32, since in bf16 the
    largest quotient becomes 128, which int8 has not. A scale is not finite where a weight is not.
    """
    parts = [_quantize_rows(rows, bits, scale_type or weight.dtype) for rows in weight.split(max(1, QUANTIZED_AT_ONCE // weight.shape[1]))]
    return torch.cat([integers for integers, _ in parts]), torch.cat([scale for _, scale in parts])


def _quantize_rows(weight: Tensor, bits: int, scale_type: torch.dtype) -> tuple[Tensor, Tensor]:
    assert bits in BITS
    if weight.dtype == torch.bfloat16:
        weight = weight.float()
    largest = 2 ** (bits - 1) - 1
    scale = (weight.abs().amax(-1) / largest).to(scale_type)
    # a row of zeros is 0 / 0; and a scale near its type's smallest is so coarse that the quotient leaves the range, which would wrap around
    integers = (weight / scale[:, None]).round_().nan_to_num_(0).clamp_(-largest, largest).to(torch.int8)
    return integers if bits == 8 else (integers[:, ::2] << 4) | (integers[:, 1::2] & 15), scale


def dequantize(integers: Tensor, scale: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """The weight (N, K) in `dtype`: integer times scale, exact in fp32, rounded to the scale's type as in the original's kernels."""
    factor = scale.float()[:, None]
    if bits == 8:
        product = torch.empty_like(integers, dtype=scale.dtype)
        return torch.mul(integers, factor, out=product).to(dtype)
    product = torch.empty((*integers.shape, 2), dtype=scale.dtype, device=integers.device)
    torch.mul(integers & -16, factor / 16, out=product[..., 0])  # both nibbles at 16 times their value, which takes one step each
    torch.mul(integers << 4, factor / 16, out=product[..., 1])
    return product.flatten(-2).to(dtype)
