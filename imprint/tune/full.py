"""Tuning of all parameters."""

from typing import Literal

import torch

from imprint.config import Field, Section
from imprint.errors import UserError
from imprint.models.network import Network


class FullSection(Section):
    """Full tuning: every parameter of the base is trained, in the precision of `model.dtype`."""

    method: Literal["full"] = Field(description="Train all parameters; the result is a model folder of its own.")


def unfreeze(network: Network) -> None:
    """Make every parameter trainable, each in memory of its own: a frozen base may still be mapped to its file.

    Raises UserError for a quantised base, whose integers cannot be moved by small steps, and for float16, in which Adam's small numbers
    become zero and the weights infinite.
    """
    if network.quantization_bit:
        raise UserError(
            f"tune.method: a base quantised to {network.quantization_bit} bits cannot be tuned as a whole: integers take no small "
            'steps. Set model.quantize to null with a model.path that is not quantised, or tune.method to "prefix".'
        )
    if network.dtype == torch.float16:
        raise UserError('model.dtype: "float16" cannot be tuned as a whole: its range is too small. Set it to float32 or bfloat16.')
    for parameter in network.parameters():
        parameter.data = parameter.data.clone()
        parameter.requires_grad_(True)
