"""The knobs of `imprint chat`."""

from pathlib import Path
from typing import Literal

from imprint.config import Field, Section
from imprint.templates import TEMPLATE_HELP, TemplateName


class SamplingSection(Section):
    """How answers are drawn; may change while a chat goes on."""

    temperature: float = Field(0.95, ge=0, description="0 answers greedily, always the same; more is more daring.")
    top_p: float = Field(0.7, gt=0, le=1, description="Draw from the most probable tokens of this joint probability.")
    max_length: int | None = Field(
        None,
        ge=3,
        description="Most tokens of prompt and answer together; null takes 2048, or what the base was made for where that is less.",
    )
    seed: int | None = Field(None, ge=0, lt=2**32, description="Makes answers repeatable; null draws new ones each time.")


class ChatSection(SamplingSection):
    """What is talked to and how; null takes what the run was trained with."""

    base: bool = Field(False, description="Talk to the untouched base of a run instead of what was tuned.")
    adapter: Path | None = Field(None, description="An adapter to put on a model folder: ours, or an original prefix file.")
    base_path: Path | None = Field(None, description="Where the base of a run is now, if not where its recipe says.")
    quantize: Literal[4, 8] | None = Field(None, description="Round the base's weights to so many bits.")
    dtype: str | None = Field(None, description="Precision of the base.")
    device: str | None = Field(None, description="Where to compute.")
    template: TemplateName | None = Field(None, description=TEMPLATE_HELP)
    system: str | None = Field(None, description="What the model is told before the conversation.")
