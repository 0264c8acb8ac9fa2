"""Launches the kernels of step_parts.py. Imported only where they are launched: Triton is slow to import.

Legend: T tokens, C hidden size, H heads, D head size, A angles of a token.
"""

import torch
from torch import Tensor

from imprint.kernels.attend_step import on_device
from imprint.kernels.step_parts import add_norm_kernel, rotate_kernel
from imprint.kernels.tiles import power_of_two


def add_norm(
    x: Tensor, factor: float, y: Tensor, weight: Tensor, bias: Tensor | None, eps: float, *, centred: bool
) -> tuple[Tensor, Tensor]:
    """X (T, C) times a factor, plus y (T, C); and its layer norm if `centred`, else its RMS norm."""
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
            num_warps=min(16, max(1, block // 512)),
        )
    return total, out


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, section: int, neighbours: bool) -> Tensor:
    """X (T, H, D) by the angles (T, ..., A) of each token: sections of `section` dimensions, with half as many angles each.

    What no angle is left for stays. A pair is two neighbours, or half a section apart.
    """
    rows, heads, size = x.shape
    x = x if x.stride(2) == 1 else x.contiguous()
    out = torch.empty((rows, heads, size), dtype=x.dtype, device=x.device)
    with on_device(x):
        rotate_kernel[(rows,)](
            *(x, cos.contiguous(), sin.contiguous(), out, x.stride(0), x.stride(1)),
            H=heads,
            D=size,
            SECTION=section,
            SECTIONS=2 * cos[0].numel() // section,
            NEIGHBOURS=neighbours,
            BLOCK_H=power_of_two(heads),
            BLOCK_D=power_of_two(size),
        )
    return out
