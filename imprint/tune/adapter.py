"""What every adapter can do, a prefix or a LoRA, and what its folder says about it."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from imprint.models.attention import Prefix

FORMAT = 1
"""Version of adapter.json."""

Method = Literal["prefix", "lora"]


@dataclass(frozen=True)
class PrefixFacts:
    """The part of a prefix's description that a LoRA's does not have."""

    method: ClassVar[Method] = "prefix"
    length: int
    """Prefix length in tokens."""
    projection: bool
    """Whether the prefix is computed through two linear layers."""
    start: str
    """Initialization: text, zeros, random, adapter for a continued one, or original for a converted file."""

    def summary(self, path: str, progress: str) -> str:
        """The adapter at a path in a few words; `progress` is ", step N" or empty."""
        return f"prefix 前缀 {path} ({self.length} tokens{progress})"


@dataclass(frozen=True)
class LoraFacts:
    """The part of a LoRA's description that a prefix's does not have; what loads the tensors stands in peft's own configuration."""

    method: ClassVar[Method] = "lora"
    rank: int
    """Rank of the saved matrices: twice the recipe's where the initialization was subtracted from the weight."""
    targets: tuple[str, ...]
    """The adapted linears, by the last parts of their names."""
    start: str
    """Initialization, or adapter for a continued one, or peft for a folder that Imprint did not write."""

    def summary(self, path: str, progress: str) -> str:
        """The adapter at a path in a few words; `progress` is ", step N" or empty."""
        return f"LoRA {path} (rank {self.rank} on {', '.join(self.targets)}{progress})"


FACTS: dict[Method, type[PrefixFacts | LoraFacts]] = {facts.method: facts for facts in (PrefixFacts, LoraFacts)}


class Adapter(Protocol):
    """Trained parameters of one network beside its weights."""

    method: ClassVar[Method]
    """The recipe's word for it."""
    mergeable: ClassVar[bool]
    """Whether `merge` can make it a part of the weights."""

    def named_tensors(self) -> dict[str, nn.Parameter]:
        """All parameters under the names in the adapter's file."""

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Those of them that are trained."""

    def prefix(self, dtype: torch.dtype, *, training: bool = False) -> Prefix | None:
        """Keys and values for the attention of every layer, with dropout while `training`; None where the adapter is no prefix."""

    def set_dropout(self, rate: float) -> None:
        """Dropout rate in training."""

    def set_training(self, *, training: bool) -> None:
        """Switch dropout on or off in the modules that the adapter put into the network."""

    def off(self) -> AbstractContextManager[None]:
        """Inside this block the network has the base's modules and names."""

    def on(self) -> AbstractContextManager[None]:
        """Inside this block the network has the adapter's modules, also within one of `off`."""

    def settings(self) -> dict[str, object]:
        """The recipe's knobs that decide shapes, by name, with the adapter's own values."""

    def facts(self, start: str) -> PrefixFacts | LoraFacts:
        """The facts of the adapter as it is saved, whose initialization was `start`."""

    def save_files(self, folder: Path, base: str) -> None:
        """Write the tensors and whatever loads them into a folder that exists; `base` is the name of the base."""

    def merge(self, *, dequantize: bool = False) -> None:
        """Make the adapter a part of the weights for good; with `dequantize` quantised weights are dequantised first."""


def fp32_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """The named tensors as they are saved: fp32, contiguous, on the CPU."""
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in adapter.named_tensors().items()}


@dataclass(frozen=True)
class Description:
    """The content of adapter.json; the facts stand beside the other fields in the file."""

    base: str
    """Folder of the base as the run named it."""
    base_fingerprint: list[float]
    """One number for each weight of the base, by which it is recognised."""
    facts: PrefixFacts | LoraFacts
    """The fields of the method."""
    template: str
    """Name of the prompt template."""
    step: int = 0
    """Training steps so far."""
    scores: dict[str, float] = field(default_factory=dict)
    """Evaluation loss and other scores."""
    format: int = FORMAT
    """Version of the file."""

    @property
    def method(self) -> Method:
        """How the adapter was tuned."""
        return self.facts.method

    def summary(self, path: str) -> str:
        """The adapter at a path in a few words."""
        return self.facts.summary(path, f", step {self.step}" if self.step else "")
