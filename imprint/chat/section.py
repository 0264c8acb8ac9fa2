"""The knobs of `imprint chat`."""

from imprint.config import Field
from imprint.inference.section import DecodingSection
from imprint.loading.section import OpenSection


class SamplingSection(DecodingSection):
    """Sampling settings; /set changes them during a chat."""

    temperature: float = Field(0.95, ge=0, description="0 is greedy, so that answers repeat; a higher temperature varies them more.")
    top_p: float = Field(0.7, gt=0, le=1, description="Sample from the most probable tokens of this joint probability.")
    max_length: int | None = Field(
        None,
        ge=3,
        description="Maximum tokens of prompt and answer together; null takes 2048, or the maximum length of the base if that is less.",
    )
    seed: int | None = Field(
        None, ge=0, lt=2**32, description="Seed of sampling, which makes answers reproducible; null samples anew each time."
    )


class ChatSection(OpenSection, SamplingSection):
    """Which model answers, and how; null takes what the run was trained with."""

    system: str | None = Field(None, description="System prompt.")
