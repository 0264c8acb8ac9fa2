"""The `model` section of a recipe, and the knobs of all commands that open a model."""

import re
from datetime import date
from pathlib import Path
from typing import Final

from pydantic import field_validator

from imprint.config import Field, MayChange, Section
from imprint.loading.hub.name import COMMIT, parse_name
from imprint.messages import Bilingual
from imprint.quant.names import FormatName, KernelChoice
from imprint.templates import TEMPLATE_HELP, TemplateName

DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
KERNELS_HELP: Final = (
    "auto computes products and attention on a GPU by Triton kernels where these are faster, if it is installed, and repeats decoding "
    "steps as CUDA graphs; plain is PyTorch alone, step by step. The results differ by rounding. `imprint doctor` says what a machine has."
)
NO_COMMIT: Final = Bilingual("must be the 40 hexadecimal digits of a commit", "须为提交的 40 位十六进制数")
NO_DAY: Final = Bilingual("must be a day as year-month-day, such as 2026-01-31", "须为 年-月-日，如 2026-01-31")


class ModelSection(Section):
    """The base that is tuned."""

    path: str = Field(
        min_length=1,
        description="Folder of the base, or of a run (full or LoRA) whose result is the base; a model of the hub (owner/name or "
        'owner/name@revision), which is downloaded; or "embedded": the toy base of Imprint.',
    )
    commit: str | None = Field(
        None,
        description="Of a model of the hub: the commit that is used, 40 hexadecimal digits; null takes what the hub has when the run "
        "begins, and what opens the run later takes the same.",
    )
    quantize: FormatName | None = Field(
        None,
        description="Quantize the base's weights: 8 or 4 bits, like the original's quantization_bit, or int4-g128, 4 bits with a scale for "
        "every 128 columns, which is closer to the unquantized base; or fp8, with which GPUs from compute capability 8.9 on train faster: "
        "products are rounded, so losses differ a little. null leaves them unchanged.",
    )
    quantize_head: bool = Field(
        False,
        description="Quantize the LM head too, in the format of the blocks; on a base that shares it with the embedding, that as well. For "
        "GPUs with little memory: the original does not, so losses and answers differ from its own.",
    )
    embedding_on_host: MayChange[bool] = Field(
        False,
        description="Keep the embedding in main memory, from which the rows of each batch are copied to the GPU. Nothing is computed "
        "otherwise; answers take longer, since their steps are not repeated as CUDA graphs. A base whose embedding is the LM head needs "
        "quantize_head too.",
    )
    dtype: str | None = Field(None, description="float32, bfloat16 or float16; null takes float32 on the CPU and 16 bit on a GPU.")
    device: str | None = Field(None, description="cpu, cuda or cuda:1; null takes a GPU if there is one.")
    kernels: MayChange[KernelChoice] = Field("auto", description=KERNELS_HELP)
    template: TemplateName = Field("auto", description=TEMPLATE_HELP)
    date: str | None = Field(
        None,
        description="The day that a chat template writes as today's, such as 2026-01-31; null takes the day on which the run began, and "
        "what opens the run later writes it too.",
    )

    @property
    def location(self) -> str | Path:
        """What to open: the name at the hub with the commit, or the path of a folder."""
        if self.commit is None:
            return Path(self.path)
        name = parse_name(self.path)
        return Path(self.path) if name is None else str(name.at(self.commit))

    @field_validator("commit")
    @classmethod
    def _is_commit(cls, value: str | None) -> str | None:
        if value is not None and not COMMIT.fullmatch(value):
            raise ValueError(NO_COMMIT)
        return value

    @field_validator("date")
    @classmethod
    def _is_day(cls, value: str | None) -> str | None:
        if value is not None and (not DAY.fullmatch(value) or not _exists(value)):
            raise ValueError(NO_DAY)
        return value


def _exists(day: str) -> bool:
    try:
        date.fromisoformat(day)
    except ValueError:
        return False
    return True


class AdapterSection(Section):
    """Which weights are opened: the result of a run, its base, or a base with an adapter."""

    base: bool = Field(False, description="Open the untuned base of a run instead of its result.")
    adapter: Path | None = Field(
        None, description="An adapter to add: ours, a LoRA of peft, an original prefix file, or the run that trained it."
    )


class BaseSection(Section):
    """The path of a run's base, and its prompt template."""

    base_path: str | None = Field(
        None, description="Path of the base of a run, or its name at the hub, if it is not where its recipe says."
    )
    template: TemplateName | None = Field(None, description=TEMPLATE_HELP)


DEVICE_HELP = "Device to compute on; null takes the run's, else a GPU if there is one."


class PrecisionSection(Section):
    """The precision and device of a model."""

    quantize: FormatName | None = Field(
        None, description="Quantize the base's weights to 8 or 4 bits, int4-g128 or fp8; null takes the run's."
    )
    dtype: str | None = Field(
        None,
        description="float32, bfloat16 or float16; null takes the run's, else float32 on the CPU and 16 bit on a GPU.",
    )
    device: str | None = Field(None, description=DEVICE_HELP)
    quantize_head: bool | None = Field(None, description="Quantize the LM head too, as model.quantize_head; null takes the run's.")
    embedding_on_host: bool | None = Field(
        None, description="Keep the embedding in main memory, as model.embedding_on_host; null takes the run's."
    )
    kernels: KernelChoice | None = Field(None, description="auto or plain, as model.kernels; null takes the run's, else auto.")


class OpenSection(PrecisionSection, BaseSection, AdapterSection):
    """All knobs with which a command opens a model; null takes the value that the run was trained with."""
