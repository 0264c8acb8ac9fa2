"""General rows, mixed into the training so that the model keeps the abilities of its base."""

from dataclasses import dataclass
from pathlib import Path

from imprint.data.readers.samples import read_samples
from imprint.data.sample import Sample
from imprint.data.section import FROM_BASE, GENERAL_FILE, MixSection
from imprint.messages import Bilingual, UserError


@dataclass(frozen=True)
class GeneralRows:
    """The general rows of a run, as text."""

    samples: list[Sample]
    """All samples, in file order."""
    source: str
    """File or folder they were read from."""


def load_general_rows(section: MixSection, base: Path, *, tools: bool = False) -> GeneralRows:
    """Read the general rows; `tools`: see `samples_from_row`.

    Raises UserError if the base has none, and for a file that cannot be read.
    """
    from_base = section.rows == FROM_BASE
    source = str(base / GENERAL_FILE) if from_base else section.rows
    if from_base and not (base / GENERAL_FILE).is_file():
        raise UserError(
            Bilingual(
                f"data.mix_general.rows: the base {base} has no general rows ({GENERAL_FILE}). Give a file of question and answer rows.",
                f"该底座不带通用数据（{GENERAL_FILE}）：请在 data.mix_general.rows 中给出自己的通用问答文件。",
            )
        )
    return GeneralRows(read_samples(source, prompt_column="content", response_column="summary", tools=tools), source)


def general_per_epoch(own: int, share: float) -> int:
    """Number of general rows per epoch, so that they are the share `share` of it beside `own` rows; at least one."""
    return max(1, round(own * share / (1 - share)))
