"""The knobs of `imprint export`."""

from typing import Literal

from imprint.config import Field
from imprint.loading.section import DEVICE_HELP, BaseSection


class ExportSection(BaseSection):
    """How an export is written and verified."""

    dtype: Literal["float16", "bfloat16", "float32"] | None = Field(
        None,
        description="Dtype of the written weights, where they are computed or merged; null takes the 16-bit type of model.dtype, else that "
        "of the base's own weights.",
    )
    device: str | None = Field(None, description=DEVICE_HELP)
    proof_dtype: Literal["float16", "bfloat16", "float32"] | None = Field(
        None,
        description="Dtype in which the answers before and after the export are compared; null takes float32 if 16-bit rounding "
        "differs (another program, or a merged LoRA), else the dtype of the run.",
    )
    questions: int = Field(8, ge=1, le=1000, description="Number of questions answered before and after the export.")
