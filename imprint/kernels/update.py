"""Launches the kernel of adamw.py. Imported only where it is launched: Triton is slow to import."""

import torch
from torch import Tensor

from imprint.kernels.adamw import adamw_kernel
from imprint.kernels.attend_step import on_device
from imprint.kernels.split import AdamWNumbers
from imprint.kernels.tiles import UPDATE, Tile


def update(weight: Tensor, low: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, numbers: AdamWNumbers, tile: Tile = UPDATE) -> None:
    """See `split.Update`; all tensors are contiguous."""
    elements = weight.numel()
    with on_device(weight):
        adamw_kernel[(-(-elements // tile.columns),)](
            *(weight.view(torch.int16), low, gradient.view(torch.int16), mean, square, elements),
            *(numbers.factor, numbers.keep, numbers.mean_share, numbers.square_keep, numbers.square_share),
            *(numbers.size, numbers.correction, numbers.eps),
            BLOCK=tile.columns,
            num_warps=tile.warps,
        )
