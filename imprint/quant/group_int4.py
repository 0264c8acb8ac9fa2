"""INT4 with one scale for every group of columns of a row: a format of Imprint's own.

Legend: N rows (output features), K columns (input features), S columns of a group, G groups of a row.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from imprint.messages import Bilingual
from imprint.quant.nibbles import pack, scaled
from imprint.quant.row_int import SHARED_BYTE
from imprint.quant.weight_format import SCALE, WEIGHT, FormatTensor, WeightFormat, quantize_in_chunks

METHOD = "imprint"
"""`quant_method` in config.json: other programs refuse a method that they do not know."""
GROUP = 128
"""S."""


@dataclass(frozen=True)
class GroupInt4(WeightFormat):
    """Integers from -8 to 7 and one fp16 scale for every 128 columns of a row; the last group may be shorter.

    Integers are int8 (N, K / 2), two columns per byte, first one high. Scales are (N, G). A group's largest magnitude is -8 times its
    scale, which is negative where that number is positive: so all sixteen integers are used, and the largest magnitude of a row is kept.
    """

    @property
    def name(self) -> Literal["int4-g128"]:
        """`int4-g128`."""
        return "int4-g128"

    @property
    def fields(self) -> dict[str, Any]:
        """Where other programs look for a quantization; the original's `quantization_bit` would be another format."""
        return {"quantization_config": {"quant_method": METHOD, "format": self.name, "bits": 4, "group_size": GROUP}}

    def format_tensors(self, rows: int, columns: int) -> dict[str, FormatTensor]:
        """Integers and scales."""
        groups = -(-columns // GROUP)
        return {WEIGHT: FormatTensor((rows, columns // 2), torch.int8), SCALE: FormatTensor((rows, groups), torch.float16)}

    def width_problem(self, columns: int) -> Bilingual | None:
        """Odd widths."""
        return SHARED_BYTE if columns % 2 else None

    def quantize(self, weight: Tensor) -> dict[str, Tensor]:
        """A weight (N, K) -> integers and scales, computed in fp32. The scale of a group that is not finite is not finite."""
        return quantize_in_chunks(weight, self._quantize_rows)

    def _quantize_rows(self, weight: Tensor) -> dict[str, Tensor]:
        columns = weight.shape[1]
        groups = _groups(weight.float(), GROUP)  # (N, G, S)
        extreme = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
        scale = (extreme / -8).half()
        # a group of zeros gives 0 / 0; a subnormal scale is so coarse that the quotient may leave the range and would wrap around
        integers = (groups / scale).round_().nan_to_num_(0).clamp_(-8, 7).to(torch.int8)
        return {WEIGHT: pack(integers.flatten(1)[:, :columns]), SCALE: scale[..., 0]}

    def dequantize(self, tensors: Mapping[str, Tensor], rows: slice | Tensor, dtype: torch.dtype) -> Tensor:
        """The exact product of integer and scale in fp32, rounded once."""
        packed, scale = tensors[WEIGHT][rows], tensors[SCALE][rows]
        groups = scaled(_groups(packed, GROUP // 2), scale.float()[..., None], dtype)  # (N, G, S)
        return groups.flatten(1)[:, : 2 * packed.shape[1]]


def _groups(rows: Tensor, size: int) -> Tensor:
    """(N, K) -> (N, G, size), with zeros in the place of missing columns."""
    missing = -rows.shape[1] % size
    return (functional.pad(rows, (0, missing)) if missing else rows).view(len(rows), -1, size)
