"""The knobs of `imprint data check`, `show` and `convert`."""

from typing import Literal

from imprint.config import Field, Section
from imprint.loading.section import BaseSection


class CheckSection(BaseSection):
    """How rows are read and truncated; null takes what the run was trained with, or a recipe's defaults."""

    prompt_column: str | None = Field(None, min_length=1, description="Column of the question.")
    response_column: str | None = Field(None, min_length=1, description="Column of the answer.")
    history_column: str | None = Field(None, min_length=1, description="Column of the earlier turns.")
    max_source_length: int | None = Field(None, ge=4, description="Maximum tokens of a prompt, including those of the template.")
    max_target_length: int | None = Field(None, ge=4, description="Maximum tokens of an answer, including its end token.")
    truncation: Literal["oldest_first", "original"] | None = Field(None, description="What is removed from a prompt that is too long.")
    kind: Literal["rows", "texts"] | None = Field(
        None,
        description="rows: questions with answers; texts: raw text; null takes the run's kind, or texts if every file is plain text.",
    )
    text_column: str | None = Field(None, min_length=1, description="Column of the text, if raw text is in rows.")
    blank_lines: bool | None = Field(None, description="Blank lines separate the documents of a plain text.")
    length: int | None = Field(None, ge=16, description="Maximum tokens of a row of raw text.")


class ConvertSection(Section):
    """The knobs of `imprint data convert`."""

    prompt_column: str = Field(
        "content", min_length=1, description="Column of the question; unless it is set, the layouts of common data sets are detected too."
    )
    response_column: str = Field(
        "summary", min_length=1, description="Column of the answer; unless it is set, the layouts of common data sets are detected too."
    )
    history_column: str | None = Field(None, min_length=1, description="Column of the earlier [question, answer] turns, if there is one.")
