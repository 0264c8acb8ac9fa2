"""Settings of a check: tokenizer and template, columns and limits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from imprint.check.section import CheckSection
from imprint.config import read_overrides
from imprint.data.encode import EncodedRow, encode_sample, has_long_prompt
from imprint.data.limits import UNLIMITED, LengthLimits
from imprint.data.original import encode_sample_original
from imprint.data.readers.documents import PLAIN_SUFFIXES, list_text_files
from imprint.data.readers.questions import holds_rows
from imprint.data.readers.rows import file_rows
from imprint.data.readers.sources import detect_format
from imprint.data.sample import Sample
from imprint.data.section import DataSection, TextsSection
from imprint.data.shapes import Columns, detect_shape
from imprint.loading.base import EMBEDDED
from imprint.loading.load import open_template, read_max_length
from imprint.loading.run import data_knobs
from imprint.loading.source import ModelSource, resolve_source
from imprint.messages import Bilingual, UserError
from imprint.templates import Template
from imprint.tokenizers import Tokenizer

TRAINED_LENGTH: Final = 2048
"""Maximum length in tokens that is assumed where no model is given: that of ChatGLM-6B's pre-training."""
SHORT: Final = 512
"""Tokens of a row that every base reads; its maximum length need not be looked up."""
MEASURED_TOKENS: Final = 4096
"""Tokens of a long prompt that are encoded to measure it."""
ROW_KNOBS: Final = tuple(name for name in CheckSection.model_fields if name in DataSection.model_fields and name != "kind")
"""Knobs that the data section of rows has too."""
TEXT_KNOBS: Final = tuple(name for name in CheckSection.model_fields if name in TextsSection.model_fields and name != "kind")
"""Knobs that the data section of raw text has too."""


@dataclass(frozen=True)
class CheckSettings:
    """Everything that determines how a row is encoded."""

    template: Template
    """Template, with the tokenizer that counts tokens."""
    name: str
    """Name of the model, as given by the user."""
    prompt_column: str
    """Column of the question."""
    response_column: str
    """Column of the answer."""
    history_column: str | None
    """Column of the earlier turns, if any."""
    max_source_length: int | None
    """Maximum tokens of a prompt; None chooses it from the rows, as training does."""
    max_target_length: int | None
    """Maximum tokens of an answer; None chooses it."""
    truncation: Literal["oldest_first", "original"]
    """What is truncated if a row is too long."""
    texts: TextsSection | None = None
    """How raw text is read; None for rows of questions and answers."""
    source: ModelSource | None = None
    """The model that the user has given."""

    @property
    def limits(self) -> LengthLimits | None:
        """The length limits; None while one of them is to be chosen from the rows."""
        if self.max_source_length is None or self.max_target_length is None:
            return None
        return LengthLimits(self.max_source_length, self.max_target_length)

    def with_limits_for(self, needed: LengthLimits) -> "CheckSettings":
        """The settings with the limits that training would choose from rows that need these."""
        wanted = LengthLimits(self.max_source_length or needed.prompt, self.max_target_length or needed.answer)
        chosen = wanted.within(self.max_length(wanted))
        return replace(
            self,
            max_source_length=self.max_source_length or chosen.prompt,
            max_target_length=self.max_target_length or chosen.answer,
        )

    def max_length(self, needed: LengthLimits) -> int:
        """Length of the longest sequence that the model was trained on; it is looked up only for rows that need many."""
        if self.source is None or needed.prompt + needed.answer <= SHORT:
            return TRAINED_LENGTH
        return read_max_length(self.source)

    @property
    def base(self) -> str | None:
        """The base that the given model is or tunes, as a recipe names it; None for the toy."""
        if self.source is None:
            return None
        return self.source.run.model.path if self.source.run is not None else str(self.source.path)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that counts tokens."""
        return self.template.tokenizer

    @property
    def columns(self) -> Columns:
        """The columns to read."""
        return Columns(self.prompt_column, self.response_column, self.history_column)

    def encode(self, sample: Sample) -> EncodedRow:
        """The row as in training."""
        return self._encode(sample, self.max_source_length or UNLIMITED, self.max_target_length or UNLIMITED)

    def encode_untruncated(self, sample: Sample) -> EncodedRow:
        """The row as in training without length limits."""
        return self._encode(sample, UNLIMITED, UNLIMITED)

    def measure(self, sample: Sample) -> EncodedRow:
        """The row with the tokens that it needs; of a long prompt only the end is there, and its tokens are estimated."""
        long = self.truncation != "original" and has_long_prompt(sample.messages)
        return self._encode(sample, MEASURED_TOKENS if long else UNLIMITED, UNLIMITED)

    def summary(self) -> str:
        """The settings as one printed line."""
        if self.texts is not None:
            return f"tokens of {self.name} · " + " ".join(
                f"data.{name}={'true' if value is True else value}" for name, value in self.text_knobs().items()
            )
        given = {name: getattr(self, name) for name in ("max_source_length", "max_target_length") if getattr(self, name) is not None}
        limits = " ".join(f"data.{name}={limit}" for name, limit in given.items())
        if self.limits is None:
            limits += " · " * bool(given) + Bilingual("limits chosen from the rows", "长度上限按数据选定").line
        return f"tokens of {self.name} · {limits}" + (" data.truncation=original" if self.truncation == "original" else "")

    def text_knobs(self) -> dict[str, object]:
        """How raw text is read, as knobs of a recipe; defaults are left out."""
        assert self.texts is not None, "only for raw text"
        column = {} if self.texts.text_column is None else {"text_column": self.texts.text_column}
        return {"kind": "texts", "length": self.texts.length, **({"blank_lines": True} if self.texts.blank_lines else {}), **column}

    def _encode(self, sample: Sample, max_prompt: int, max_answer: int) -> EncodedRow:
        encode = encode_sample_original if self.truncation == "original" else encode_sample
        return encode(self.template, sample, max_source_length=max_prompt, max_target_length=max_answer)


def read_settings(model: str | None, overrides: Sequence[str], files: Sequence[str] = ()) -> CheckSettings:
    """The settings of a run or a model folder with overrides, also in the form of a recipe's (`data.max_source_length=128`).

    Reads no weights, and of the `files` only enough to distinguish raw text from rows. Raises UserError for a wrong override, and if there
    is no tokenizer.
    """
    section = read_overrides([override.removeprefix("data.").removeprefix("model.") for override in overrides], CheckSection)
    source = resolve_source(model or EMBEDDED, section.base_path)
    run = source.run
    given = section.model_dump(exclude_none=True)
    known = data_knobs(ROW_KNOBS, run)
    chosen = known | {name: given[name] for name in ROW_KNOBS if name in given}
    settings = CheckSettings(
        template=open_template(source, section.template), name=_model_name(model), source=source if model else None, **chosen
    )
    run_texts = run.data if run is not None and isinstance(run.data, TextsSection) else None
    named = {name for name in given if name in (*ROW_KNOBS, *TEXT_KNOBS)}
    plain = bool(files) and not named and all(holds_plain_text(file) for file in files)
    kind = section.kind or ("texts" if run_texts or plain or not named.isdisjoint(TEXT_KNOBS) else "rows")
    own, other = (TEXT_KNOBS, "rows") if kind == "texts" else (ROW_KNOBS, "texts")
    if wrong := sorted(named.difference(own)):
        raise UserError(
            Bilingual(
                f"{wrong[0]}: is a knob of {other}, and these are {kind}, which have {', '.join(own)}. Leave it out, or set kind={other}.",
                f"{wrong[0]}：该选项只用于 {other}，而这些数据是 {kind}：请去掉它，或设 kind={other}。",
            )
        )
    if kind == "rows":
        return settings
    texts = run_texts or TextsSection(kind="texts", train=Path())
    return replace(settings, texts=texts.model_copy(update={name: given[name] for name in named}))


def holds_plain_text(source: str) -> bool:
    """Whether every file of a source has a plain text suffix and holds no rows of a known shape."""
    try:
        files = list_text_files(source)
        return all(file.suffix.lower() in PLAIN_SUFFIXES and not (holds_rows(file) or _is_table(file)) for file in files)
    except UserError:  # reported when it is read
        return False


def _is_table(file: Path) -> bool:
    """Whether a file is a table with the columns of a question and an answer."""
    try:
        first = next((row for _location, row in file_rows(detect_format(file)) if isinstance(row, dict)), None)
    except UserError:
        return False
    shape = detect_shape(first or {}, Columns())
    return first is not None and {shape.prompt, shape.response} <= first.keys()


def _model_name(model: str | None) -> str:
    return model or f'"{EMBEDDED}" (the toy base; --model FOLDER selects another tokenizer)'
