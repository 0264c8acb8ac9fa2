"""fp32 numbers as two halves of 16 bits: bfloat16, rounded, and what the rounding leaves. No bit is lost."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

HALF = 2**15


@dataclass(frozen=True)
class AdamWScalars:
    """The scalars of one step of AdamW, for one parameter."""

    factor: float
    """Factor of the gradient."""
    decay_factor: float
    """Factor of the value: 1 minus learning rate times weight decay."""
    mean_share: float
    """1 - beta1: share of the gradient in the first moment."""
    beta2: float
    """Factor of the second moment."""
    square_share: float
    """1 - beta2: share of the gradient's square in it."""
    step_size: float
    """Learning rate, corrected for the start of the first moment."""
    correction: float
    """Correction for the start of the second moment: what its root is divided by."""
    eps: float
    """Added to that root."""


Update = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, AdamWScalars], None]
"""Updates weight (bfloat16), low (int16), and both moments (fp32) with a gradient (bfloat16), in place; in this order, gradient third."""


def split(value: Tensor) -> tuple[Tensor, Tensor]:
    """Fp32 numbers -> bfloat16, rounded to nearest and halves away from zero; and int16, what is left of their bits."""
    bits = value.view(torch.int32)
    high = (bits + HALF).bitwise_right_shift_(16)  # in place from here on: a weight may be large
    weight = high.to(torch.int16).view(torch.bfloat16)
    return weight, torch.sub(bits, high.bitwise_left_shift_(16), out=high).to(torch.int16)


def joined(weight: Tensor, low: Tensor) -> Tensor:
    """The fp32 numbers that were split."""
    bits = weight.view(torch.int16).to(torch.int32).bitwise_left_shift_(16)
    return bits.add_(low).view(torch.float32)
