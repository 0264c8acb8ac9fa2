"""The knobs of `imprint chat`."""

from imprint.config import Field, Section
from imprint.loading.section import OpenSection


class SamplingSection(Section):
    """Sampling settings; /set changes them during a chat."""

    temperature: float = Field(0.95, ge=0, description="0 answers greedily, always the same; more is more daring.")
    top_p: float = Field(0.7, gt=0, le=1, description="Draw from the most probable tokens of this joint probability.")
    max_length: int | None = Field(
        None,
        ge=3,
        description="Most tokens of prompt and answer together; null takes 2048, or what the base was made for where that is less.",
    )
    seed: int | None = Field(None, ge=0, lt=2**32, description="Makes answers repeatable; null draws new ones each time.")


class ChatSection(OpenSection, SamplingSection):
    """What is talked to and how; null takes what the run was trained with."""

    system: str | None = Field(None, description="What the model is told before the conversation.")
