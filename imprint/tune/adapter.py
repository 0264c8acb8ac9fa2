"""The protocol of every adapter (prefix or LoRA), and the metadata stored in its folder."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from imprint.models.attention import Prefix
from imprint.tune.method import AdapterMethod

FORMAT = 1
"""Version of adapter.json."""


@dataclass(frozen=True)
class PrefixMetadata:
    """Fields of adapter.json that only a prefix has."""

    method: ClassVar[AdapterMethod] = "prefix"
    length: int
    """Prefix length in tokens."""
    projection: bool
    """Whether the prefix is computed through two linear layers."""
    start: str
    """Initialization: text, zeros or random; `adapter` for a continued prefix, `original` for a converted file."""

    def summary(self, path: str, progress: str) -> str:
        """The adapter at `path` in a few words; `progress` is ", step N" or empty."""
        return f"prefix 前缀 {path} ({self.length} tokens{progress})"


@dataclass(frozen=True)
class LoraMetadata:
    """Fields of adapter.json that only a LoRA has; the tensors are loaded by peft's own configuration."""

    method: ClassVar[AdapterMethod] = "lora"
    rank: int
    """Rank of the saved matrices: twice the recipe's where the initialization was subtracted from the weight."""
    targets: tuple[str, ...]
    """The adapted linears, by the last parts of their names."""
    start: str
    """Initialization; `adapter` for a continued LoRA, `peft` for a folder that Imprint did not write."""

    def summary(self, path: str, progress: str) -> str:
        """The adapter at `path` in a few words; `progress` is ", step N" or empty."""
        return f"LoRA {path} (rank {self.rank} on {', '.join(self.targets)}{progress})"


METADATA: dict[AdapterMethod, type[PrefixMetadata | LoraMetadata]] = {
    metadata.method: metadata for metadata in (PrefixMetadata, LoraMetadata)
}


class Adapter(Protocol):
    """Trained parameters that are added to the weights of one network."""

    method: ClassVar[AdapterMethod]
    """The `tune.method` of a recipe."""
    mergeable: ClassVar[bool]
    """Whether `merge` can add it to the weights."""

    def named_tensors(self) -> dict[str, nn.Parameter]:
        """All parameters by their names in the adapter's file."""

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by the same names."""

    def prefix(self, dtype: torch.dtype, *, training: bool = False) -> Prefix | None:
        """Keys and values for the attention of every layer (see `Prefix`), with dropout if `training`; None for a LoRA."""

    def set_dropout(self, rate: float) -> None:
        """Set the dropout rate in training."""

    def set_training(self, *, training: bool) -> None:
        """Set training or evaluation mode of the modules that the adapter put into the network."""

    def off(self) -> AbstractContextManager[None]:
        """Inside this block the network has the base's modules and names."""

    def on(self) -> AbstractContextManager[None]:
        """Inside this block the network has the adapter's modules, also when nested in `off`."""

    def settings(self) -> dict[str, object]:
        """The recipe's knobs that determine shapes -> the adapter's values."""

    def metadata(self, start: str) -> PrefixMetadata | LoraMetadata:
        """The method's fields of adapter.json; `start` is the initialization."""

    def save_files(self, folder: Path, base: str) -> None:
        """Write the tensors, and peft's configuration for a LoRA, into a folder that exists; `base` is the name of the base."""

    def merge(self, *, dequantize: bool = False) -> None:
        """Add the adapter to the weights permanently; with `dequantize` quantized weights are dequantized first."""


def fp32_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """The named tensors as they are saved: fp32, contiguous, on the CPU."""
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in adapter.named_tensors().items()}


@dataclass(frozen=True)
class AdapterMetadata:
    """The content of adapter.json; in the file, those of the method are on the same level as the other fields."""

    base: str
    """Folder of the base as named in the recipe."""
    base_fingerprint: list[float]
    """One number per weight of the base; see `fingerprint`."""
    method_metadata: PrefixMetadata | LoraMetadata
    """The fields of the method."""
    template: str
    """Name of the prompt template."""
    step: int = 0
    """Training steps so far."""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """Evaluation loss and other scores."""
    format: int = FORMAT
    """Version of the file."""

    @property
    def method(self) -> AdapterMethod:
        """The tuning method."""
        return self.method_metadata.method

    def summary(self, path: str) -> str:
        """The adapter at a path in a few words."""
        return self.method_metadata.summary(path, f", step {self.step}" if self.step else "")
