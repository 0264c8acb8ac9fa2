"""Launches the kernels of add_norm_kernels.py. Imported only where they are launched: Triton is slow to import.

Legend: T tokens, C hidden size.
"""

import torch
from torch import Tensor

from imprint.kernels.add_norm_kernels import add_norm_kernel
from imprint.kernels.current_device import on_device
from imprint.kernels.tiles import power_of_two


def add_norm(
    x: Tensor, factor: float, y: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, centred: bool, offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """X (T, C) times a factor, plus y (T, C); and its layer norm if `centred`, else its RMS norm, times the weight plus `offset`."""
    rows, columns = x.shape
    x, y = (tensor if tensor.stride(1) == 1 else tensor.contiguous() for tensor in (x, y))
    total, out = (torch.empty((rows, columns), dtype=x.dtype, device=x.device) for _ in range(2))
    block = power_of_two(columns)
    with on_device(x):
        add_norm_kernel[(rows,)](
            *(x, y, weight, weight if bias is None else bias, total, out, factor, eps, x.stride(0), y.stride(0)),
            C=columns,
            BLOCK_C=block,
            CENTRED=centred,
            HAS_BIAS=bias is not None,
            OFFSET=offset,
            num_warps=min(16, max(1, block // 512)),
        )
    return total, out
