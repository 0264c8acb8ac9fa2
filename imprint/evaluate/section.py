"""Knobs of `evaluate`, `compare`, `perplexity` and `forgetting`, and the defaults they take from a run."""

from pathlib import Path
from typing import Literal

from pydantic import ValidationInfo, field_validator

from imprint.config import Field
from imprint.data.section import DataSection
from imprint.forgetting.section import ForgettingSection
from imprint.inference.section import DecodingSection
from imprint.loading.run import RunConfig, data_knobs
from imprint.loading.section import BaseSection, OpenSection, PrecisionSection
from imprint.messages import Bilingual
from imprint.metrics.protocols import ProtocolName
from imprint.task import TaskSection, TextTask


class EvaluateSection(DecodingSection, OpenSection):
    """How answers are generated and scored; null takes what the run was trained with."""

    batch_size: int = Field(64, ge=1, description="Prompts per batch.")
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        description="Maximum tokens of an answer; null takes max_target_length, or the original's limit of prompt and answer.",
    )
    num_beams: int = Field(1, ge=1, description="Beams of beam search; 1 does not search.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of sampling.")
    task: TaskSection | None = Field(None, description="Kind of task, as in a recipe; null takes the run's, else text.")
    protocol: ProtocolName = Field("chatglm-6b", description="How ROUGE and BLEU-4 are computed; see docs/metrics.md.")
    truncation: Literal["oldest_first", "original"] | None = Field(
        None,
        description="How prompts are truncated; `original` also truncates references and limits prompt plus answer, as ChatGLM-6B does.",
    )
    prompt_column: str | None = Field(None, min_length=1, description="Column of the question.")
    response_column: str | None = Field(None, min_length=1, description="Column of the reference answer.")
    history_column: str | None = Field(None, min_length=1, description="Column of earlier turns.")
    fill: dict[str, str] | None = Field(None, description="Texts for the placeholders of the rows, such as {name: ..., author: ...}.")
    max_source_length: int | None = Field(
        None, ge=4, description="Maximum tokens of a prompt; null takes the run's, else cuts none that the base can read."
    )
    source_prefix: str | None = Field(None, description="Text put before every prompt.")
    max_target_length: int | None = Field(
        None,
        ge=4,
        description="Maximum tokens of a reference, if truncation is `original`, and of an answer; null takes the run's, else what 99 of "
        "100 references need.",
    )
    max_length: int | None = Field(
        None, ge=5, description="Maximum tokens of prompt and answer together, if truncation is `original`; null adds the two limits."
    )
    output: Path | None = Field(None, description="Folder to write to; null writes into the run folder, or into the working directory.")

    @field_validator("num_beams")
    @classmethod
    def _check_beams(cls, num_beams: int, info: ValidationInfo) -> int:
        defaults = {name: DecodingSection.model_fields[name].default for name in ("top_k", "stop", "repetition_penalty")}
        if num_beams > 1 and (name := next((name for name, value in defaults.items() if info.data.get(name, value) != value), None)):
            raise ValueError(Bilingual(f"{name} is not used by beam search; leave it out", f"束搜索不支持 {name}；请去掉它"))
        if num_beams > 1 and info.data.get("temperature"):
            raise ValueError(
                Bilingual(
                    f"{num_beams} beams are searched without sampling; set temperature to 0 or num_beams to 1",
                    "集束搜索不做采样；请把 temperature 设为 0，或把 num_beams 设为 1",
                )
            )
        return num_beams


FROM_DATA = EvaluateSection.model_fields.keys() & DataSection.model_fields.keys()
"""Knobs whose default is the run's data section: those that it has too."""


def resolve(section: EvaluateSection, run: RunConfig | None) -> EvaluateSection:
    """Fill in null knobs from the run, else from the defaults of a recipe; limits that neither has are chosen from the rows later."""
    known = data_knobs(FROM_DATA, run)
    section = section.model_copy(update={name: value for name, value in known.items() if getattr(section, name) is None})
    if section.task is None:
        section = section.model_copy(update={"task": run.task if run else TextTask()})
    return section


def reference_limit(section: EvaluateSection) -> int | None:
    """Maximum tokens of a scored reference; None if references are not truncated."""
    if section.truncation != "original":
        return None
    assert section.max_target_length is not None, "answer_all() fills in null limits"
    return section.max_target_length - 2


def decoding(section: EvaluateSection) -> str:
    """The decoding method, as text."""
    if section.num_beams > 1:
        return f"{section.num_beams} beams"
    method = "greedy" if section.temperature == 0 else f"sampled, temperature {section.temperature:g}, top_p {section.top_p:g}"
    top_k = f", top_k {section.top_k}" if section.top_k and section.temperature else ""
    penalty = "" if section.repetition_penalty == 1 else f", repetition_penalty {section.repetition_penalty:g}"
    stop = f", up to {' or '.join(map(repr, section.stop))}" if section.stop else ""
    return f"{method}{top_k}{penalty}{stop}"


class ForgettingCommandSection(PrecisionSection, BaseSection, ForgettingSection):
    """How forgetting is measured; null takes what the run was trained with."""


class PerplexitySection(OpenSection):
    """How texts are read and measured."""

    length: int | None = Field(
        None, ge=16, description="Tokens of a window; null takes the run's data.length, or the maximum length of the base, up to 2048."
    )
    stride: int | None = Field(
        None,
        ge=1,
        description="Tokens between the starts of two windows of a long document; a smaller stride gives each token more context, and "
        "takes longer. Null takes half of the window.",
    )
    batch_tokens: int = Field(8192, ge=1, description="Tokens per batch.")
    text_column: str | None = Field(
        None, min_length=1, description="Column of the text; null takes the run's, else the first one with a common name, such as text."
    )
    blank_lines: bool | None = Field(
        None, description="Blank lines separate the documents of a plain text; null takes the value of the run."
    )
    output: Path | None = Field(None, description="Folder to write to; null writes into the run folder, or into the working directory.")
