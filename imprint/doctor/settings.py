"""What data is measured with: whose tokens, which columns, which limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from imprint.config import Field, Section, read_overrides
from imprint.data.dataset import DataSection
from imprint.data.encode import Encoded, encode_sample
from imprint.data.original import encode_sample_original
from imprint.data.sample import Sample
from imprint.data.shapes import Columns
from imprint.data.templates import TEMPLATE_HELP, Template, TemplateName
from imprint.model import EMBEDDED
from imprint.tokenizers import Tokenizer
from imprint.trained import open_template, read_run

UNLIMITED = 10**9


class CheckSection(Section):
    """How rows are read and cut; null takes what the run was trained with, or a recipe's defaults."""

    prompt_column: str | None = Field(None, min_length=1, description="Column of the question.")
    response_column: str | None = Field(None, min_length=1, description="Column of the answer.")
    history_column: str | None = Field(None, min_length=1, description="Column of the earlier turns.")
    max_source_length: int | None = Field(None, ge=4, description="Most tokens of a prompt, those that frame it included.")
    max_target_length: int | None = Field(None, ge=4, description="Most tokens of an answer, the one that ends it included.")
    truncation: Literal["oldest_first", "original"] | None = Field(None, description="What a row that is too long loses.")
    template: TemplateName | None = Field(None, description=TEMPLATE_HELP)


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a row becomes."""

    template: Template
    """How a conversation is written, and whose tokens are counted."""
    name: str
    """What the user calls the model with this tokenizer."""
    prompt_column: str
    """Column of the question."""
    response_column: str
    """Column of the answer."""
    history_column: str | None
    """Column of the earlier turns, if one is named."""
    max_source_length: int
    """Most tokens of a prompt."""
    max_target_length: int
    """Most tokens of an answer."""
    truncation: Literal["oldest_first", "original"]
    """What a row that is too long loses."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Whose tokens are counted."""
        return self.template.tokenizer

    @property
    def columns(self) -> Columns:
        """The columns to read."""
        return Columns(self.prompt_column, self.response_column, self.history_column)

    def encode(self, sample: Sample) -> Encoded:
        """The row as training takes it."""
        return self._encode(sample, self.max_source_length, self.max_target_length)

    def encode_whole(self, sample: Sample) -> Encoded:
        """The row as training would take it without limits."""
        return self._encode(sample, UNLIMITED, UNLIMITED)

    def told(self) -> str:
        """The settings for a person."""
        limits = f"data.max_source_length={self.max_source_length} data.max_target_length={self.max_target_length}"
        return f"tokens of {self.name} · {limits}" + (" data.truncation=original" if self.truncation == "original" else "")

    def _encode(self, sample: Sample, source: int, target: int) -> Encoded:
        encode = encode_sample_original if self.truncation == "original" else encode_sample
        return encode(self.template, sample, max_source_length=source, max_target_length=target)


def read_settings(model: str | None, overrides: Sequence[str]) -> Settings:
    """The settings of a run or a model folder with overrides, which may be written as a recipe's (`data.max_source_length=128`).

    No weights are read. Raises UserError for a mistaken override, and where there is no tokenizer.
    """
    section = read_overrides([override.removeprefix("data.").removeprefix("model.") for override in overrides], CheckSection)
    path = Path(model or EMBEDDED)
    run = read_run(path)
    names = CheckSection.model_fields.keys() - {"template"}
    known = {name: getattr(run.rows, name) if run else DataSection.model_fields[name].default for name in names}
    chosen = known | section.model_dump(exclude_none=True, exclude={"template"})
    return Settings(template=open_template(path, run, section.template), name=_name(model), **chosen)


def _name(model: str | None) -> str:
    return model or f'"{EMBEDDED}" (the toy base; --model FOLDER counts those of another)'
