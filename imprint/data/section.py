"""The `data` section of a recipe: rows of questions with answers, or raw text. "The original" is ChatGLM-6B's ptuning/main.py."""

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import ValidationInfo, field_validator

from imprint.config import DefaultTag, Field, InsteadOf, MayChange, Section
from imprint.messages import Bilingual

FROM_BASE: Final = "base"
"""Value of `rows` for the general rows of the base."""
GENERAL_FILE: Final = "general.jsonl"
"""File of general rows in the folder of a base."""
OWN_TEMPERATURE: Final = 1.0
"""Temperature of a model's own distribution."""
DEFAULT_ANSWER_LIMIT: Final = 64
"""Maximum tokens of an answer where there are no rows to choose it from, and at least so many where the base answers general rows."""


class MixSection(Section):
    """General rows mixed into training: they are learned like the others, but not counted as rows of the data."""

    rows: str = Field(
        FROM_BASE,
        min_length=1,
        description=(
            f'File or folder of question and answer rows, or "{FROM_BASE}": the {GENERAL_FILE} in the folder of the base; the toy has one.'
        ),
    )
    share: float = Field(0.5, gt=0, lt=1, description="Share of general rows in an epoch; each epoch takes the next ones in rotation.")
    answers: Literal["rows", "base"] = Field(
        "rows",
        description="Answers that are learned: those of the rows, or the base's own, which it gives before training; then a file of "
        "questions is enough, and answers in it are not used.",
    )
    temperature: float = Field(
        OWN_TEMPERATURE,
        ge=0,
        le=10,
        description="Temperature at which the base answers, for `answers: base`: at 1 from its own distribution, of which greedy answers "
        "(0) are a sharper one. The seed is train.seed.",
    )

    @property
    def asks_base(self) -> bool:
        """Whether the base answers the questions of the rows."""
        return self.answers == "base"

    @field_validator("temperature")
    @classmethod
    def _only_if_the_base_answers(cls, temperature: float, info: ValidationInfo) -> float:
        if temperature != OWN_TEMPERATURE and info.data.get("answers", "base") != "base":
            raise ValueError(
                Bilingual(
                    "is only for answers that the base gives; remove it, or set data.mix_general.answers=base",
                    "仅用于由底座自己回答的通用数据；请去掉，或设 data.mix_general.answers=base",
                )
            )
        return temperature


class DataSection(Section):
    """Rows of questions with answers: the `data` section of a recipe, unless it sets another kind."""

    kind: Literal["rows"] = Field("rows", description="rows: questions with answers; texts: raw text, for continued pre-training.")
    train: MayChange[Path] = Field(
        description="Training rows: a file or folder in any common format; FILE#500 takes a random sample of 500 rows. A resumed run "
        "needs the same rows."
    )
    dev: MayChange[Path | None] = Field(
        None, description="Rows for the evaluation loss, in the same formats; null holds out rows of `train`."
    )
    prompt_column: str = Field(
        "content", min_length=1, description="Column of the question; unless it is set, the layouts of common data sets are detected too."
    )
    response_column: str = Field(
        "summary", min_length=1, description="Column of the answer; unless it is set, the layouts of common data sets are detected too."
    )
    history_column: str | None = Field(None, min_length=1, description="Column of the earlier [question, answer] turns, if there is one.")
    source_prefix: str = Field("", description="Text put before every prompt, as by the original's flag of that name.")
    max_source_length: int | None = Field(
        None,
        ge=4,
        description="Maximum tokens of a prompt, including those of the template; null leaves 99 of 100 training rows whole, as far as "
        "the base reads. The number is chosen once and written into config.yaml.",
    )
    max_target_length: int | None = Field(
        None, ge=4, description="Maximum tokens of an answer, including its end token; null chooses as for `max_source_length`."
    )
    truncation: Literal["oldest_first", "original"] = Field(
        "oldest_first",
        description="What is removed from a prompt that is too long: its oldest turns, or its end, as in the scripts of ChatGLM-6B and "
        "ChatGLM2-6B.",
    )
    fill: dict[str, str] = Field(
        {},
        description="Texts for the placeholders of the rows: {name: ..., author: ...} replaces {name} and {author}.",
    )
    train_rows: int | None = Field(
        None, ge=1, description="Use only the first N rows of the file `train`, with all answers of each; null uses all."
    )
    dev_rows: int | None = Field(
        None, ge=1, description="Maximum number of rows of the file for the evaluation loss, with all answers of each; null sets no limit."
    )
    dev_share: Annotated[float, InsteadOf("dev")] = Field(
        0.02,
        ge=0,
        le=0.5,
        description="Share of `train` that is held out if there is no `dev`; 0 holds out nothing. On the command line it makes the "
        "recipe's `dev` null.",
    )
    dev_seed: Annotated[int, InsteadOf("dev")] = Field(
        0,
        ge=0,
        lt=2**32,
        description="Seed that selects the held-out rows, independent of the seed of the run. On the command line it makes the "
        "recipe's `dev` null.",
    )
    mix_general: MixSection | None = Field(None, description="General rows mixed into training, to reduce forgetting; null mixes in none.")

    @property
    def files(self) -> list[str]:
        """Every file or folder of rows, as named in the recipe."""
        mixed = None if self.mix_general is None else self.mix_general.rows
        return [str(file) for file in (self.train, self.dev, mixed) if file is not None]

    @field_validator("fill")
    @classmethod
    def _check_fill(cls, texts: dict[str, str]) -> dict[str, str]:
        for name, text in texts.items():
            if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(
                    Bilingual(
                        f'"{name}" cannot be the name of a placeholder; use letters, digits and _, such as name',
                        f'"{name}" 不能作占位符的名称；请用字母、数字和下划线，例如 name',
                    )
                )
            if not text.strip():
                raise ValueError(
                    Bilingual(
                        f'the text for "{name}" must not be empty, got {text!r}',
                        f'"{name}" 的内容不能为空，实际是 {text!r}',
                    )
                )
        return texts


MAX_CONTINUATION: Final = 64
"""Maximum tokens of the greedy continuation of a watched prompt."""


class TextsSection(Section):
    """Raw text for continued pre-training: whole documents, of which every token is learned."""

    kind: Literal["texts"] = Field(description="rows: questions with answers; texts: raw text, for continued pre-training.")
    train: MayChange[Path] = Field(
        description="File or folder of texts: plain text (.txt) in any encoding, or a column of JSON lines, JSON, CSV, Excel or Parquet. "
        "A resumed run needs the same text."
    )
    dev: MayChange[Path | None] = Field(
        None, description="Texts for the evaluation loss, in the same formats; null holds out documents of `train`."
    )
    text_column: str | None = Field(
        None,
        min_length=1,
        description="Column of the text; null takes the first one named text, content, document, body, 正文, 内容 or 文本.",
    )
    blank_lines: bool = Field(False, description="Blank lines separate the documents of a plain text; false makes each file one document.")
    length: int = Field(
        512,
        ge=16,
        description="Maximum tokens of a row; short documents share one without attending to each other, a longer one takes several.",
    )
    train_rows: int | None = Field(None, ge=1, description="Use only the first N rows of `train`; null uses all.")
    dev_rows: int | None = Field(200, ge=1, description="Maximum number of rows for the evaluation loss; null sets no limit.")
    dev_share: Annotated[float, InsteadOf("dev")] = Field(
        0.02,
        ge=0,
        le=0.5,
        description="Share of the documents that is held out if there is no `dev`; 0 holds out nothing. On the command line it makes the "
        "recipe's `dev` null.",
    )
    dev_seed: Annotated[int, InsteadOf("dev")] = Field(
        0,
        ge=0,
        lt=2**32,
        description="Seed that selects the held-out documents, independent of the seed of the run. On the command line it makes the "
        "recipe's `dev` null.",
    )

    @property
    def files(self) -> list[str]:
        """Every file or folder of texts, as named in the recipe."""
        return [str(file) for file in (self.train, self.dev) if file is not None]

    @property
    def source_prefix(self) -> str:
        """Raw text has no source prefix."""
        return ""

    @property
    def max_source_length(self) -> int:
        """Maximum tokens of a watched prompt."""
        return self.length

    @property
    def max_target_length(self) -> int:
        """Maximum tokens of the greedy continuation of a watched prompt."""
        return min(MAX_CONTINUATION, self.length)


AnyData = Annotated[DataSection | TextsSection, Field(discriminator="kind", description="Training data."), DefaultTag("rows")]
