"""The knobs of LoRA, and their valid combinations."""

from pathlib import Path
from typing import Literal

from pydantic import ValidationInfo, field_validator

from imprint.config import Field, Section
from imprint.messages import Bilingual

DEFAULT_RANK = 8
NEEDS_DATA = {
    "eva": "the activations of your rows",
    "corda": "the activations of sample rows",
    "lora_ga": "the gradients of your rows",
}
"""peft's initializations from data, which is not available when a LoRA is initialized -> what they need."""
SUBTRACTED = ("olora", "pissa")
"""Initializations that are taken from the weight: the same product is subtracted, so that training starts from the base."""
NEEDS_PLAIN_WEIGHT = (*SUBTRACTED, "mica")
"""Initializations that are computed from a weight that is not quantized."""

Start = Literal["standard", "gaussian", "orthogonal", "olora", "pissa", "mica", "eva", "corda", "lora_ga", "loftq"]


class LoraSection(Section):
    """LoRA: low-rank updates of some linear layers are trained; the base stays frozen."""

    method: Literal["lora"] = Field(description="Train low-rank updates of linear layers (LoRA); the base stays frozen.")
    adapter: Path | None = Field(
        None,
        description="Continue this adapter (ours, a run, or a LoRA folder of peft) instead of a new one; `start` is then ignored.",
    )
    rank: int | None = Field(None, ge=1, le=1024, description="Rank of the two matrices; null takes 8, or that of `adapter`.")
    alpha: float | None = Field(
        None,
        gt=0,
        description="The product of the two matrices is multiplied by alpha / rank; null takes twice the rank, or that of `adapter`.",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout rate of the input of each LoRA.")
    targets: Literal["attention", "all"] | tuple[str, ...] | None = Field(
        None,
        description="Which linear layers: attention (those of queries, keys and values), all (every one of the blocks), or a list of "
        "names or ends of names; null takes attention, or those of `adapter`.",
    )
    rslora: bool | None = Field(
        None,
        description="Divide `alpha` by the square root of the rank (rsLoRA), for large ranks; null takes that of `adapter`, else false.",
    )
    dora: bool | None = Field(
        None,
        description="Train the norm of each row of a weight separately from its direction (DoRA): slower, only for bases that are not "
        "quantized; null takes that of `adapter`, else false.",
    )
    start: Start = Field(
        "standard",
        description="Initialization: standard (one matrix random, one zero), gaussian, orthogonal; or from the weight, only for bases that "
        "are not quantized: olora, pissa, mica (which trains only one of the two). peft's eva, corda, lora_ga and loftq are refused.",
    )
    pissa_iterations: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Iterations of the fast, approximate SVD for `start: pissa`; null takes the exact SVD, which is slow.",
    )
    plus_ratio: float = Field(
        1.0,
        ge=1,
        le=1024,
        description="Ratio of the learning rate of the second matrix to that of the first (LoRA+); its paper recommends 16.",
    )

    @property
    def init(self) -> bool | str:
        """Peft's `init_lora_weights`."""
        if self.start == "pissa" and self.pissa_iterations:
            return f"pissa_niter_{self.pissa_iterations}"
        return True if self.start == "standard" else self.start

    @field_validator("targets")
    @classmethod
    def _not_empty(cls, targets: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if isinstance(targets, tuple) and not (targets and all(name.strip() for name in targets)):
            raise ValueError(
                Bilingual(
                    'must name linear layers, for instance ["query_key_value", "dense"]',
                    '应列出线性层的名称，例如 ["query_key_value", "dense"]',
                )
            )
        return targets

    @field_validator("start")
    @classmethod
    def _supported_start(cls, start: str, info: ValidationInfo) -> str:
        if start in NEEDS_DATA:
            raise ValueError(
                Bilingual(
                    f'"{start}" starts from {NEEDS_DATA[start]}, which are not collected here; use "pissa", or "standard"',
                    f'"{start}" 需要先用数据统计激活或梯度，这里不支持；请用 "pissa" 或 "standard"',
                )
            )
        if start == "loftq":
            raise ValueError(
                Bilingual(
                    '"loftq" quantizes the base in a format of its own; use model.quantize with start "standard"',
                    '"loftq" 用自己的格式量化底座；请用 model.quantize，并把 start 设为 "standard"',
                )
            )
        rank = DEFAULT_RANK if info.data.get("rank") is None else info.data["rank"]
        if start == "orthogonal" and rank % 2 and info.data.get("adapter") is None:
            raise ValueError(
                Bilingual(
                    f'"orthogonal" needs an even rank, and tune.rank is {rank}; use {rank + 1}',
                    f'"orthogonal" 要求秩为偶数，而 tune.rank 是 {rank}；请用 {rank + 1}',
                )
            )
        if start in NEEDS_PLAIN_WEIGHT and info.data.get("dora") and info.data.get("adapter") is None:
            raise ValueError(
                Bilingual(
                    f'"{start}" and tune.dora both decompose the weight and cannot be combined; use one of them',
                    f'"{start}" 与 tune.dora 都要分解权重，不能同时使用；请只用一个',
                )
            )
        return start

    @field_validator("pissa_iterations")
    @classmethod
    def _only_with_pissa(cls, count: int | None, info: ValidationInfo) -> int | None:
        if count is not None and info.data.get("start", "pissa") != "pissa":
            raise ValueError(
                Bilingual(
                    'is only for the start "pissa"; remove it, or set tune.start to "pissa"',
                    '仅用于 start "pissa"；请去掉，或把 tune.start 设为 "pissa"',
                )
            )
        return count
