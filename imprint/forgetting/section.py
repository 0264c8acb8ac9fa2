"""Settings of the forgetting measurement and its default files."""

from importlib.resources import files
from pathlib import Path
from typing import Final

from imprint.config import Field, Section

PROBES: Final = "probes.jsonl"
"""File of probe questions in a base's folder; also the name of the built-in file."""
TEXT: Final = "neutral.txt"
"""File of neutral text in a base's folder; also the name of the built-in file."""


class ForgettingSection(Section):
    """Forgetting of the base, measured by the same questions and texts before and after tuning."""

    measure: bool = Field(True, description="Measure forgetting at the end of `imprint train` and write forgetting.json.")
    probes: Path | None = Field(
        None,
        description="Probe questions: one a line, or rows with a `question` and its accepted texts as `answer`; null takes "
        "probes.jsonl in the folder of the base (the toy has one), else the built-in Chinese and English ones.",
    )
    text: Path | None = Field(
        None, description="Neutral text, one text a line; null takes neutral.txt in the folder of the base, else the built-in one."
    )
    limit: int | None = Field(None, ge=1, description="Maximum number of questions, spread evenly over the file; null asks all.")
    max_new_tokens: int = Field(48, ge=1, description="Maximum tokens of an answer.")
    text_tokens: int = Field(1000, ge=1, description="Approximate number of tokens of the text to score.")
    batch_size: int = Field(60, ge=1, description="Questions per batch.")
    shown_rows: int = Field(12, ge=0, description="Number of held-out rows answered before and after tuning, for the report.")

    def probes_path(self, base: Path) -> Path:
        """The file of questions for a base in this folder."""
        return _resolve(self.probes, base, PROBES)

    def text_path(self, base: Path) -> Path:
        """The file of neutral text for a base in this folder."""
        return _resolve(self.text, base, TEXT)


def _resolve(given: Path | None, base: Path, name: str) -> Path:
    if given is not None:
        return given
    return base / name if (base / name).is_file() else Path(str(files("imprint.forgetting"))) / name
