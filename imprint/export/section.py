"""The knobs of `imprint export`."""

from typing import Literal

from imprint.config import Field
from imprint.loading.section import DEVICE_HELP, BaseSection


class ExportSection(BaseSection):
    """How an export is written and verified."""

    dtype: Literal["float16", "bfloat16", "float32"] | None = Field(
        None,
        description="Type of the weights that are written; null takes the 16-bit type of model.dtype, else that of the base's own weights.",
    )
    device: str | None = Field(None, description=DEVICE_HELP)
    proof_dtype: Literal["float16", "bfloat16", "float32"] | None = Field(
        None,
        description="Type in which questions are answered before and after; null takes float32 where two programs, or a LoRA and what it "
        "is merged into, round 16 bits each in its way, else what the run computes in.",
    )
    questions: int = Field(8, ge=1, le=1000, description="How many questions are asked before and after.")
