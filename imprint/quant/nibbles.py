"""Integers of 4 bits: two columns share a byte, the first one in its high half.

Legend: K columns.
"""

import torch
from torch import Tensor


def pack(integers: Tensor) -> Tensor:
    """(..., K) int8 from -8 to 7 -> (..., K / 2) int8."""
    return (integers[..., ::2] << 4) | (integers[..., 1::2] & 15)


def scaled(packed: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """(..., K / 2) int8 and a factor in fp32, (..., 1) -> (..., K) in `dtype`: the exact products, rounded once."""
    product = torch.empty((*packed.shape, 2), dtype=dtype, device=packed.device)
    torch.mul(packed & -16, factor / 16, out=product[..., 0])  # each nibble times 16: one operation instead of two
    torch.mul(packed << 4, factor / 16, out=product[..., 1])
    return product.flatten(-2)
