"""Rotary position embeddings (Su et al. 2021): pairs of dimensions of each head are rotated by angles that grow with the position.

Legend: T packed tokens, H heads, D head size.
"""

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from imprint.kernels import available
from imprint.kernels.rotate import rotate as rotate_by_kernel
from imprint.models.pending import Pending


def rotate(x: Tensor, cos: Tensor, sin: Tensor, distance: int) -> Tensor:
    """Rotate heads (T, H, D) by angles whose cosines and sines are (T, D); the dimensions of a pair lie `distance` apart.

    The sines of the first dimension of each pair are negative. What is not rotated has cosine 1 and sine 0.
    """
    if has_torch_function((x,)):
        pending: Tensor = handle_torch_function(rotate, (x,), x, cos, sin, distance)
        return pending
    if x.is_cuda and available.usable(x.device.index, x.dtype):
        rotated: Tensor = rotate_by_kernel(x, cos, sin, distance, False)
        return rotated
    first, second = x.unflatten(-1, (-1, 2, distance)).unbind(-2)
    partner = torch.stack((second, first), -2).flatten(-3)
    return x * cos[:, None] + partner * sin[:, None]


class PendingRotation(Pending):
    """Heads that are not rotated yet, for an attention that does it."""

    def __init__(self, x: Tensor, cos: Tensor, sin: Tensor, distance: int) -> None:
        super().__init__()
        self.x, self.cos, self.sin, self.distance = x, cos, sin, distance

    def _compute(self) -> Tensor:
        return rotate(self.x, self.cos, self.sin, self.distance)
