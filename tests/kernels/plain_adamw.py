"""One step of AdamW on split weights, by torch itself."""

import torch
from torch import Tensor

from imprint.kernels.split import AdamWScalars, joined, split
from tests.kernels.quantized_weights import DEVICE


def plain_update(weight: Tensor, low: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, scalars: AdamWScalars) -> None:
    """The formula of torch.optim.AdamW on one tensor, on the joined fp32 scalars."""
    value, g = joined(weight, low), gradient.float() * scalars.factor
    value.mul_(scalars.decay_factor)
    mean.lerp_(g, scalars.mean_share)
    square.mul_(scalars.beta2).addcmul_(g, g, value=scalars.square_share)
    value.addcdiv_(mean, (square.sqrt() / scalars.correction).add_(scalars.eps), value=-scalars.step_size)
    new_weight, new_low = split(value)
    weight.copy_(new_weight)
    low.copy_(new_low)


def state_of(size: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Random weight, low, gradient and moments."""
    torch.manual_seed(size)
    weight, low = split(torch.randn(size).to(DEVICE))
    gradient, mean, square = torch.randn(3, size).to(DEVICE).unbind(0)
    return weight, low, gradient.bfloat16(), 0.1 * mean, 0.1 * square.square()
