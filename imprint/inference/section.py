"""The knobs of how tokens are chosen and where an answer ends, for every command that answers."""

from pydantic import field_validator

from imprint.config import Field, Section


class DecodingSection(Section):
    """How the next token is chosen; beside these, a seed."""

    temperature: float = Field(0.0, ge=0, description="0 answers greedily; ChatGLM-6B's code samples at 0.95.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Sample from the most probable tokens of this joint probability; ChatGLM-6B's is 0.7."
    )
    top_k: int = Field(0, ge=0, description="Sample from this many most probable tokens; 0 from all.")
    repetition_penalty: float = Field(1.0, gt=0, description="Above 1, tokens of the prompt and of the answer become less probable.")
    stop: tuple[str, ...] = Field((), description="Texts that end an answer and are no part of it.")

    @field_validator("stop", mode="before")
    @classmethod
    def _take_one_text(cls, stop: object) -> object:
        return (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list) else stop
