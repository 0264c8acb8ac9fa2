"""The knobs of `imprint chat`."""

from imprint.config import Field
from imprint.inference.section import DecodingSection
from imprint.loading.section import OpenSection


class ChatSettings(DecodingSection):
    """Sampling settings of every chat; /set changes them during it."""

    temperature: float = Field(0.95, ge=0, description="0 is greedy, so that answers repeat; a higher temperature varies them more.")
    top_p: float = Field(0.7, gt=0, le=1, description="Sample from the most probable tokens of this joint probability.")
    seed: int | None = Field(
        None, ge=0, lt=2**32, description="Seed of sampling, which makes answers reproducible; null samples anew each time."
    )


class SamplingSection(ChatSettings):
    """Those of a chat with a model on this machine."""

    max_length: int | None = Field(
        None,
        ge=3,
        description="Maximum tokens of prompt and answer together; null takes 2048, or the maximum length of the base if that is less.",
    )


class ChatSection(OpenSection, SamplingSection):
    """Which model answers, and how; null takes what the run was trained with."""

    system: str | None = Field(None, description="System prompt.")


class RemoteSamplingSection(ChatSettings):
    """Those of a chat with a service."""

    max_tokens: int | None = Field(None, ge=1, description="Maximum tokens of an answer; null leaves it to the service.")


class RemoteChatSection(RemoteSamplingSection):
    """Which model of a service answers, and how. The key is no knob of it, because errors quote the values of knobs."""

    model: str | None = Field(None, min_length=1, max_length=256, description="Model of the service; null takes its first tuned one.")
    key_file: str | None = Field(None, min_length=1, description="File with the API key, alone.")
    system: str | None = Field(None, description="System prompt.")
