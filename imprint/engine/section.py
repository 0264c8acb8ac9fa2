"""The knobs of the engine: the optimizer, and the processes and how they shard a model."""

import math
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ValidationInfo, field_validator

from imprint.config import Field, InsteadOf, Section
from imprint.messages import Bilingual

STAGES = {"zero1": 1, "zero2": 2, "zero3": 3}
ADDRESS = re.compile(r"[^\s:]+:\d{1,5}")


class OptimizerSection(Section):
    """AdamW and its schedule."""

    learning_rate: float = Field(5e-3, gt=0, le=10, description="Peak learning rate; ChatGLM-6B's scripts have 2e-2 for a prefix.")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "cosine", description="Decay of the learning rate after the warm-up: to 0 by the last step, or none (constant)."
    )
    warmup_steps: Annotated[int, InsteadOf("warmup_share")] = Field(
        10,
        ge=0,
        description="Steps over which the learning rate rises from 0; at most half of the run. On the command line it makes the recipe's "
        "`warmup_share` null.",
    )
    warmup_share: float | None = Field(None, ge=0, le=1, description="The same as a share of the run, instead of `warmup_steps`.")
    warmup_from_zero: bool = Field(
        False,
        description="Warm up as transformers does: the first step has a rate of 0, and the warm-up may take more than half of the run.",
    )
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay of matrices; biases and norms have none.")
    clip: float = Field(1.0, gt=0, description="Maximum norm of the gradient; a larger gradient is scaled down to it.")

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of optimizer step `step` (from 1) of a run of `steps`."""
        done, peak = step - 1, self.learning_rate
        warmup = self.warmup_steps if self.warmup_share is None else math.ceil(self.warmup_share * steps)
        if self.warmup_from_zero and done < warmup:
            return peak * done / warmup
        warmup = warmup if self.warmup_from_zero else min(warmup, steps // 2)
        if done < warmup:
            return peak * (done + 1) / (warmup + 1)
        remaining = 1 - (done - warmup) / max(steps - warmup, 1)
        factors = {"constant": 1.0, "linear": remaining, "cosine": 0.5 - 0.5 * math.cos(math.pi * remaining)}
        return peak * factors[self.schedule]


class EngineSection(Section):
    """The processes that train together, and what is sharded over them."""

    processes: int | None = Field(
        None, ge=1, le=1024, description="Processes on this machine; null starts one for each visible GPU, and one on the CPU."
    )
    deepspeed: str | None = Field(
        None,
        min_length=1,
        description="Shard the optimizer state (zero1), the gradients too (zero2), the weights too (zero3) with DeepSpeed; or the path of "
        "a DeepSpeed JSON file.",
    )
    offload: bool = Field(
        False, description="Keep the optimizer state in main memory and compute its step on the CPU; needs `deepspeed`, zero2 or zero3."
    )
    fsdp: bool = Field(False, description="Shard weights, gradients and optimizer state with PyTorch's own FSDP, without DeepSpeed.")
    nodes: int = Field(
        1, ge=1, le=1024, description="Machines that train together, each with the same number of processes and the same `output` folder."
    )
    node_rank: int | None = Field(None, ge=0, description="Rank of this machine, from 0, if there are several.")
    rendezvous: str | None = Field(None, description="Address of machine 0 with a free port of it, as host:port, if there are several.")

    @field_validator("offload")
    @classmethod
    def _offload_needs_deepspeed(cls, offload: bool, info: ValidationInfo) -> bool:  # noqa: FBT001
        if offload and info.data.get("deepspeed") in (None, "zero1"):
            raise ValueError(
                Bilingual(
                    "moves what DeepSpeed's zero2 or zero3 shards into main memory; set engine.deepspeed to one of them",
                    "把 DeepSpeed zero2 或 zero3 切分的内容移到内存；请把 engine.deepspeed 设为其中之一",
                )
            )
        return offload

    @field_validator("fsdp")
    @classmethod
    def _excludes_deepspeed(cls, fsdp: bool, info: ValidationInfo) -> bool:  # noqa: FBT001
        if fsdp and info.data.get("deepspeed") is not None:
            raise ValueError(
                Bilingual("does what engine.deepspeed=zero3 does; set one of the two", "与 engine.deepspeed=zero3 作用相同；两者只设一个")
            )
        return fsdp

    @field_validator("rendezvous")
    @classmethod
    def _is_an_address(cls, rendezvous: str | None) -> str | None:
        if rendezvous is not None and not ADDRESS.fullmatch(rendezvous):
            raise ValueError(Bilingual('must be host:port, such as "10.0.0.1:29500"', '应写成 host:port，例如 "10.0.0.1:29500"'))
        return rendezvous

    @property
    def uses_deepspeed_or_fsdp(self) -> bool:
        """Whether DeepSpeed or FSDP is used: then even a single process is a group, and all processes must make the same calls."""
        return self.deepspeed is not None or self.fsdp

    @property
    def stage(self) -> int | None:
        """DeepSpeed's stage if `deepspeed` names one; a file has its own."""
        return STAGES.get(self.deepspeed or "")

    @property
    def sharding_stage(self) -> int:
        """What is sharded, in DeepSpeed's words: 1 optimizer state, 2 gradients too, 3 weights too; 0 for nothing, and for a file."""
        return 3 if self.fsdp else self.stage or 0

    @property
    def file(self) -> Path | None:
        """The DeepSpeed file if `deepspeed` names one."""
        return None if self.deepspeed is None or self.deepspeed in STAGES else Path(self.deepspeed)
