"""The knobs of `imprint data check`, `show` and `convert`."""

from typing import Literal

from imprint.config import Field, Section
from imprint.loading.section import BaseSection


class CheckSection(BaseSection):
    """How rows are read and cut; null takes what the run was trained with, or a recipe's defaults."""

    prompt_column: str | None = Field(None, min_length=1, description="Column of the question.")
    response_column: str | None = Field(None, min_length=1, description="Column of the answer.")
    history_column: str | None = Field(None, min_length=1, description="Column of the earlier turns.")
    max_source_length: int | None = Field(None, ge=4, description="Most tokens of a prompt, those that frame it included.")
    max_target_length: int | None = Field(None, ge=4, description="Most tokens of an answer, the one that ends it included.")
    truncation: Literal["oldest_first", "original"] | None = Field(None, description="What a row that is too long loses.")
    kind: Literal["rows", "texts"] | None = Field(
        None,
        description="rows: questions with answers; texts: raw text; null takes the run's kind, or texts where every file is plain text.",
    )
    text_column: str | None = Field(None, min_length=1, description="Column of the text, of raw text in rows.")
    blank_lines: bool | None = Field(None, description="Blank lines part the documents of a plain text.")
    length: int | None = Field(None, ge=16, description="Most tokens of a row of raw text.")


class ConvertSection(Section):
    """The knobs of `imprint data convert`."""

    prompt_column: str = Field("content", min_length=1, description="Column of the question; a known shape is found by itself.")
    response_column: str = Field("summary", min_length=1, description="Column of the answer; a known shape is found by itself.")
    history_column: str | None = Field(None, min_length=1, description="Column of the earlier [question, answer] turns, if there is one.")
