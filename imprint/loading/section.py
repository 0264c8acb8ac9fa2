"""The `model` section of a recipe."""

from typing import Literal

from imprint.config import Field, Section
from imprint.templates import TEMPLATE_HELP, TemplateName


class ModelSection(Section):
    """The base that is tuned."""

    path: str = Field(
        min_length=1,
        description='Folder of the base, or of a run (full or LoRA) whose result is the base, or "embedded": the toy that comes along.',
    )
    quantize: Literal[4, 8] | None = Field(
        None, description="Round the base's weights to so many bits, as the original's quantization_bit; null takes them as they are."
    )
    dtype: str | None = Field(None, description="float32, bfloat16 or float16; null takes float32 on the CPU and 16 bit on a GPU.")
    device: str | None = Field(None, description="cpu, cuda or cuda:1; null takes a GPU where there is one.")
    template: TemplateName = Field("auto", description=TEMPLATE_HELP)
