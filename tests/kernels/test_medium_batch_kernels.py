import pytest
import torch

from imprint.kernels import launch
from imprint.kernels.tiles import Tile
from imprint.quant.row_int import RowInt
from imprint.quant.weight_format import WeightFormat
from tests.cases import difference
from tests.kernels.quantized_weights import DEVICE, every_dtype, every_format, for_kernel, needs_triton, stored

pytestmark = needs_triton


@every_format
@every_dtype
@pytest.mark.parametrize(("rows", "columns", "tokens"), [(36, 512, 33), (7, 264, 17)])
def test_tokens_are_multiplied_as_by_the_dequantized_weight(
    weight_format: WeightFormat, dtype: torch.dtype, rows: int, columns: int, tokens: int
) -> None:
    weight = stored(weight_format, rows, columns, range(2, rows))
    x, bias = (torch.randn(size, device=DEVICE).to(dtype) for size in ((tokens, columns), (rows - 2,)))
    exact = x.double() @ weight.dequantize(torch.float32).double().t() + bias.double()

    found = launch.quantized_medium_batch(x, for_kernel(weight), bias)

    assert difference(found, exact) < torch.finfo(dtype).eps * float(exact.abs().max())


def test_the_tile_changes_nothing_but_rounding() -> None:
    weight, x = for_kernel(stored(RowInt(4), 70, 520)), torch.randn(64, 520, device=DEVICE).half()

    found, wanted = launch.quantized_medium_batch(x, weight, None, Tile(64, 16, 4, 2)), launch.quantized_medium_batch(x, weight, None)

    assert difference(found, wanted) < 0.1
