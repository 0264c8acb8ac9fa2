"""What a weight format is: how a frozen weight is quantized, stored and dequantized.

Legend: N rows (output features), K columns (input features) of a weight.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from imprint.messages import Bilingual
from imprint.quant.names import FormatName, format_label, format_title

WEIGHT = "weight"
"""The tensor of every format that has the name of the plain weight."""
SCALE = "weight_scale"
"""The scales of a format that has one tensor of them."""
CHUNK_WEIGHTS = 2**20
"""Weights quantized at a time, to limit the memory for intermediate results."""


@dataclass(frozen=True)
class FormatTensor:
    """Shape and dtype of one of the tensors by which a format represents a weight."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    """None for that of the weight that is quantized, fp16 in the official folders."""

    def empty(self) -> Tensor:
        """A tensor of this kind without values."""
        return torch.empty(self.shape, dtype=self.dtype or torch.float16)

    def nbytes(self, weight_dtype: torch.dtype) -> int:
        """Bytes of this tensor for a weight of this dtype."""
        return math.prod(self.shape) * (self.dtype or weight_dtype).itemsize


class WeightFormat(ABC):
    """One way to store a frozen weight (N, K) as tensors; a value that equals another with the same settings.

    One of the tensors is called `weight`. None of them is converted when the compute dtype changes.
    """

    @property
    @abstractmethod
    def name(self) -> FormatName:
        """What `quantize` of a recipe and of `imprint.load` say."""

    @property
    def title(self) -> str:
        """The name in one word, as in `--to int8`."""
        return format_title(self.name)

    @property
    def label(self) -> Bilingual:
        """The name in a sentence: quantized to ..."""
        return format_label(self.name)

    @property
    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """The fields of config.json by which a folder says that it has this format."""

    @abstractmethod
    def format_tensors(self, rows: int, columns: int) -> dict[str, FormatTensor]:
        """The tensors for a weight (N, K), by name."""

    @abstractmethod
    def width_problem(self, columns: int) -> Bilingual | None:
        """Why weights of this many columns cannot be stored, to follow their number; None if they can."""

    @abstractmethod
    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        """A weight (N, K) -> the tensors. Where a weight is not finite, a scale or another floating-point tensor is not finite."""

    @abstractmethod
    def dequantize(self, tensors: Mapping[str, Tensor], rows: slice | Tensor, dtype: torch.dtype) -> Tensor:
        """The tensors -> these rows of the weight, (rows, K), in `dtype`."""

    def for_block(self, index: int, count: int) -> "WeightFormat | None":  # noqa: ARG002
        """The format of the weights of one of `count` blocks; None where they stay in 16 bits."""
        return self

    def with_scales_like_weights(self) -> "WeightFormat":
        """The format as ChatGLM2's code has it, where the scales have the dtype of the weights; itself where the original has no such."""
        return self


@dataclass(frozen=True)
class StoredWeight:
    """Some rows of a weight (N, K) as a format stores it: what a kernel multiplies by."""

    weight_format: WeightFormat
    tensors: Mapping[str, Tensor]
    """All tensors of the weight."""
    columns: int
    """K."""
    rows: range
    """The rows that are meant; a product has as many columns."""

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.tensors[WEIGHT].device

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The rows in `dtype`."""
        return self.weight_format.dequantize(self.tensors, slice(self.rows.start, self.rows.stop), dtype)

    def split(self, count: int) -> "list[StoredWeight]":
        """Parts of at most `count` rows, in order."""
        starts = self.rows[::count]
        return [replace(self, rows=range(start, min(start + count, self.rows.stop))) for start in starts]


def quantize_in_chunks(weight: Tensor, quantize_rows: Callable[[Tensor], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of a format whose rows are quantized on their own, computed for a limited number of rows at a time."""
    parts = [quantize_rows(chunk) for chunk in weight.split(max(1, CHUNK_WEIGHTS // weight.shape[1]))]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
