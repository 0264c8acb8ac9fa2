"""The `model` section of a recipe, and the knobs of every command that opens a model."""

from pathlib import Path
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


class AdapterSection(Section):
    """Which weights are opened: what was tuned, its base, or a base with an adapter."""

    base: bool = Field(False, description="Take the untouched base of a run instead of what was tuned.")
    adapter: Path | None = Field(
        None, description="An adapter to put on top: ours, a LoRA of peft, an original prefix file, or a run, whose adapter is taken."
    )


class BaseSection(Section):
    """Where the base of a run is, and how its conversations are written."""

    base_path: Path | None = Field(None, description="Where the base of a run is now, if not where its recipe says.")
    template: TemplateName | None = Field(None, description=TEMPLATE_HELP)


DEVICE_HELP = "Where to compute; null takes the run's, else a GPU where there is one."


class PrecisionSection(Section):
    """In which precision a model is opened, and where."""

    quantize: Literal[4, 8] | None = Field(None, description="Round the base's weights to so many bits; null takes the run's.")
    dtype: str | None = Field(
        None,
        description="float32, bfloat16 or float16; null takes the run's, else float32 on the CPU and 16 bit on a GPU.",
    )
    device: str | None = Field(None, description=DEVICE_HELP)


class OpenSection(PrecisionSection, BaseSection, AdapterSection):
    """Everything that says how a command opens a model; null takes what the run was trained with."""
