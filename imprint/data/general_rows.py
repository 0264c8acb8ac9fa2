"""General rows: what is learned beside a person's own rows so that the base keeps what it can."""

from dataclasses import dataclass
from pathlib import Path

from imprint.data.readers.samples import read_samples
from imprint.data.sample import Sample
from imprint.data.section import FROM_BASE, GENERAL_FILE, MixSection
from imprint.errors import UserError
from imprint.messages import Bilingual


@dataclass(frozen=True)
class GeneralRows:
    """The general rows of a run, as text."""

    samples: list[Sample]
    """All of them, in the order of the file."""
    source: str
    """Where they were read."""


def load_general_rows(section: MixSection, base: Path, *, tools: bool = False) -> GeneralRows:
    """Read the general rows; `tools`: see `samples_from_row`.

    Raises UserError where the base brings none, and for a file that cannot be read.
    """
    brought = section.rows == FROM_BASE
    source = str(base / GENERAL_FILE) if brought else section.rows
    if brought and not (base / GENERAL_FILE).is_file():
        raise UserError(
            Bilingual(
                f"data.mix_general.rows: the base {base} brings no general rows ({GENERAL_FILE}). Name a file of question and answer "
                "rows of your own.",
                f"该底座不带通用数据（{GENERAL_FILE}）：请在 data.mix_general.rows 中给出自己的通用问答文件。",
            )
        )
    return GeneralRows(read_samples(source, prompt_column="content", response_column="summary", tools=tools), source)


def general_per_epoch(own: int, share: float) -> int:
    """How many general rows an epoch of so many own rows takes for them to be this share of it; at least one."""
    return max(1, round(own * share / (1 - share)))
