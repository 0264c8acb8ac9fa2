"""The knobs of the models that are served, and of how much at a time."""

from imprint.config import Field
from imprint.loading.section import BaseSection, PrecisionSection


class ServedModelsSection(PrecisionSection, BaseSection):
    """How models are opened, and how many answers they write at a time."""

    slots: int = Field(
        64, ge=1, le=1024, description="Most answers at a time, of each server if there are several; more wait in the queue."
    )
    max_waiting: int = Field(256, ge=1, description="Most requests in the queue, a quarter of them of one user; more are refused.")
    max_length: int | None = Field(
        None, ge=8, description="Most tokens of prompt and answer together; null takes the context of the base, or what memory allows."
    )
    kv_tokens: int | None = Field(
        None, ge=8, description="Most tokens that the key-value cache has room for, all answers together; null takes what memory allows."
    )
    neutralize_marks: bool = Field(
        False,
        description="Change marks of turns that are plain text in what users send, `问：` to `问—` and `[Round 1]` to `(Round 1)`, so that "
        "nobody can write turns into a prompt. For the templates chatglm, chatglm2 and plain; others have none.",
    )
    prefill_chunk_tokens: int = Field(
        512, ge=1, description="Most tokens of prompts in one step: longer ones are run in parts, so that other answers go on meanwhile."
    )
