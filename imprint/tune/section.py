"""The `tune` section of a recipe: one section per method."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ValidationInfo, field_validator

from imprint.config import Field, MayChange, Section
from imprint.messages import Bilingual
from imprint.tune.lora.section import LoraSection

NO_TEXT_WITH_PROJECTION = Bilingual(
    '"text" cannot start a prefix with a projection, whose keys and values are computed from an embedding; '
    'set tune.start to "random" or "zeros", or tune.projection to false',
    '带投影的前缀由嵌入计算键和值，不能以 "text" 初始化；请把 tune.start 设为 "random" 或 "zeros"，或把 tune.projection 设为 false',
)


class PrefixSection(Section):
    """P-Tuning v2: a prefix of keys and values is trained, the base stays frozen."""

    method: Literal["prefix"] = Field("prefix", description="Train a prefix (P-Tuning v2); the base stays frozen.")
    adapter: Path | None = Field(
        None,
        description="Continue this adapter (ours, a run, or an original prefix file) instead of a new one; `start` is then ignored.",
    )
    length: int | None = Field(None, ge=1, le=2048, description="Number of prefix tokens; null takes 128, or the length of `adapter`.")
    projection: bool | None = Field(
        None,
        description="Compute the prefix by two linear layers, like `prefix_projection` of ChatGLM-6B; null takes that of `adapter`, "
        "else false.",
    )
    start: Literal["text", "zeros", "random"] = Field(
        "text", description="Initialization: the base's own keys and values of `text`, zeros, or random as in ChatGLM-6B's scripts."
    )
    text: str = Field(
        "根据商品的属性，写一段吸引人的广告文案。",
        min_length=1,
        description="Text for `start: text`, such as the task's instruction; repeated if it is shorter than the prefix.",
    )
    prefix_dropout: float = Field(
        0.0, ge=0, lt=1, description="Dropout rate of the prefix, sampled for each micro-batch; ChatGLM-6B's is 0.1."
    )
    original_file: MayChange[bool] = Field(
        False, description="Also write the prefix as the pytorch_model.bin of ChatGLM-6B's scripts into `adapter/`."
    )

    @property
    def dropout(self) -> float:
        """The dropout rate under the name that LoRA has too."""
        return self.prefix_dropout

    @field_validator("start")
    @classmethod
    def _text_has_no_projection(cls, start: str, info: ValidationInfo) -> str:
        if start == "text" and info.data.get("projection") and info.data.get("adapter") is None:
            raise ValueError(NO_TEXT_WITH_PROJECTION)
        return start


class FullSection(Section):
    """Full tuning: every parameter of the base is trained; computed in `model.dtype`, updated in fp32."""

    method: Literal["full"] = Field(description="Train all parameters; the result is a model folder of its own.")

    @property
    def dropout(self) -> float:
        """No dropout: nothing is added to the base."""
        return 0.0


AnySection = PrefixSection | LoraSection | FullSection


TuneSection = Annotated[AnySection, Field(discriminator="method", description="What is trained.")]
