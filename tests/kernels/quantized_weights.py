"""Random weights in every format, as the kernels and as PyTorch take them."""

import importlib.util

import pytest
import torch

from imprint.kernels.launch import QuantizedRows
from imprint.quant.formats import FORMATS
from imprint.quant.group_int4 import GroupInt4
from imprint.quant.row_int import RowInt
from imprint.quant.weight_format import SCALE, WEIGHT, StoredWeight, WeightFormat
from tests.interpreted import interprets, mend_interpreter

TRITON = importlib.util.find_spec("triton") is not None
if TRITON and interprets():
    mend_interpreter()
needs_triton = pytest.mark.skipif(not TRITON, reason="Triton is not installed")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = (torch.float16, torch.bfloat16) if DEVICE.type == "cuda" else (torch.float16,)
"""In the interpreter only fp16: it has no matrix products in bf16, and truncates to bf16 instead of rounding."""
INTEGER_FORMATS = [one for one in FORMATS if isinstance(one, RowInt | GroupInt4)]
"""Those of integers, which these kernels read."""
every_format = pytest.mark.parametrize("weight_format", INTEGER_FORMATS, ids=lambda one: str(one.title))
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def stored(weight_format: WeightFormat, rows: int, columns: int, kept: range | None = None) -> StoredWeight:
    """Some rows of a random weight."""
    torch.manual_seed(rows + columns)
    tensors = weight_format.quantize(torch.randn(rows, columns))
    return StoredWeight(weight_format, {name: one.to(DEVICE) for name, one in tensors.items()}, columns, kept or range(rows))


def for_kernel(weight: StoredWeight) -> QuantizedRows:
    """The same for a kernel."""
    name = weight.weight_format.name
    bits, group = 8 if name == 8 else 4, 128 if name == "int4-g128" else 0
    return QuantizedRows(weight.tensors[WEIGHT], weight.tensors[SCALE], bits, group, weight.rows)
