"""Tuning of all parameters."""

from typing import Literal

from imprint.config import Field, Section
from imprint.models.chatglm import ChatGLM


class FullSection(Section):
    """Full tuning: every parameter of the base is trained, in the precision of `model.dtype`."""

    method: Literal["full"] = Field(description="Train all parameters; the result is a model folder of its own.")


def unfreeze(network: ChatGLM) -> None:
    """Make every parameter trainable, each in memory of its own: a frozen base may still be mapped to its file."""
    for parameter in network.parameters():
        parameter.data = parameter.data.clone()
        parameter.requires_grad_(True)
