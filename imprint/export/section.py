"""The knobs of `imprint export`."""

from pathlib import Path
from typing import Literal

from imprint.config import Field, Section


class ExportSection(Section):
    """How an export is written and proven."""

    dtype: Literal["float16", "bfloat16", "float32"] | None = Field(
        None,
        description="Type of the weights that are written; null takes the 16-bit type of model.dtype, else that of the base's own weights.",
    )
    device: str | None = Field(None, description="Where to compute; null takes what the recipe says, else a GPU where there is one.")
    base_path: Path | None = Field(None, description="Where the base of a run is now, if not where its recipe says.")
    proof_dtype: Literal["float16", "bfloat16", "float32"] | None = Field(
        None,
        description="Type in which questions are answered before and after; null takes float32 where two programs, or a LoRA and what it "
        "is merged into, round 16 bits each in its way, else what the run computes in.",
    )
    questions: int = Field(8, ge=1, le=1000, description="How many questions are asked before and after.")
