"""Launches the kernel of adamw_kernels.py. Imported only where it is launched: Triton is slow to import."""

import torch
from torch import Tensor

from imprint.kernels.adamw_kernels import adamw_kernel
from imprint.kernels.current_device import on_device
from imprint.kernels.split import AdamWScalars
from imprint.kernels.tiles import UPDATE, Tile


def update(weight: Tensor, low: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, scalars: AdamWScalars, tile: Tile = UPDATE) -> None:
    """See `split.Update`; all tensors are contiguous."""
    elements = weight.numel()
    with on_device(weight):
        adamw_kernel[(-(-elements // tile.columns),)](
            *(weight.view(torch.int16), low, gradient.view(torch.int16), mean, square, elements),
            *(scalars.factor, scalars.decay_factor, scalars.mean_share, scalars.beta2, scalars.square_share),
            *(scalars.step_size, scalars.correction, scalars.eps),
            BLOCK=tile.columns,
            num_warps=tile.warps,
        )
