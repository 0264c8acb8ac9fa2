"""The task of a run, which decides how answers are scored; `imprint evaluate` reads it from the recipe."""

from typing import Annotated, Final, Literal

from pydantic import field_validator

from imprint.config import Field, Section
from imprint.messages import Bilingual

MAX_LABELS: Final = 1000
"""Most labels of a classification: each is compared with each."""


class TextTask(Section):
    """Free text, such as ad copy."""

    kind: Literal["text"] = Field("text", description="Any text, scored by ROUGE and BLEU-4.")


class SummaryTask(Section):
    """A summary of a long text."""

    kind: Literal["summary"] = Field("summary", description="A summary, scored by ROUGE.")


class TranslationTask(Section):
    """A translation."""

    kind: Literal["translation"] = Field("translation", description="A translation, scored by sacreBLEU and chrF.")
    tokenizer: Literal["zh", "13a", "intl", "char"] = Field(
        "zh", description="sacreBLEU's tokenizer: zh for translations into Chinese, 13a for those in Latin letters."
    )


class ClassificationTask(Section):
    """One of several labels."""

    kind: Literal["classification"] = Field("classification", description="One of the labels, scored by accuracy and macro-F1.")
    labels: tuple[str, ...] = Field(min_length=2, max_length=MAX_LABELS, description="All labels, as written in the answers of the data.")
    constrained: bool = Field(
        True, description="Answer with the most probable label; false generates text, which is wrong unless it is the label."
    )
    baseline: bool = Field(
        True,
        description="Also score TF-IDF with logistic regression, trained on the rows of the run.",
    )

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if blank := [label for label in labels if label != label.strip() or not label]:
            raise ValueError(
                Bilingual(
                    f'holds "{blank[0]}"; a label must be a text without whitespace around it',
                    f'含有 "{blank[0]}"；标签不能为空，首尾不能有空白',
                )
            )
        if twice := [label for index, label in enumerate(labels) if label in labels[:index]]:
            raise ValueError(Bilingual(f'holds "{twice[0]}" twice; name each label once', f'"{twice[0]}" 重复；每个标签只能写一次'))
        return labels


class ContinuationTask(Section):
    """The continuation of a text."""

    kind: Literal["continuation"] = Field("continuation", description="A continuation, scored by perplexity and ROUGE-L.")


class CodeCommentsTask(Section):
    """A sentence that describes a piece of code."""

    kind: Literal["code_comments"] = Field("code_comments", description="A comment, scored by BLEU-4, ROUGE-L and exact matches.")


TaskSection = Annotated[
    TextTask | SummaryTask | TranslationTask | ClassificationTask | ContinuationTask | CodeCommentsTask,
    Field(discriminator="kind", description="Kind of task, which determines how answers are scored."),
]
Task = TextTask | SummaryTask | TranslationTask | ClassificationTask | ContinuationTask | CodeCommentsTask
