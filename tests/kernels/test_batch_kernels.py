from typing import Literal

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
@pytest.mark.parametrize(("rows", "columns", "tokens"), [(36, 512, 33), (7, 264, 17), (36, 512, 3), (7, 264, 16), (9, 8, 2), (36, 512, 1)])
@pytest.mark.parametrize("parts", [None, 2])
def test_tokens_are_multiplied_as_by_the_dequantized_weight(
    weight_format: WeightFormat, dtype: torch.dtype, rows: int, columns: int, tokens: int, parts: int | None
) -> None:
    weight = stored(weight_format, rows, columns, range(2, rows))
    x, bias = (torch.randn(size, device=DEVICE).to(dtype) for size in ((tokens, columns), (rows - 2,)))
    exact = x.double() @ weight.dequantize(torch.float32).double().t() + bias.double()
    tile = None if parts is None else Tile(16, for_kernel(weight).group_pairs or 16, 1, 2, parts, described=tokens < 17)

    found = launch.quantized_batch(x, for_kernel(weight), bias, tile)

    assert difference(found, exact) < torch.finfo(dtype).eps * float(exact.abs().max())


@pytest.mark.parametrize("bits", [4, 8])
def test_the_tile_changes_nothing_but_rounding(bits: Literal[4, 8]) -> None:
    weight, x = for_kernel(stored(RowInt(bits), 70, 520)), torch.randn(64, 520, device=DEVICE).half()
    wanted = launch.quantized_batch(x, weight, None)

    for tile in (Tile(64, 16, 4, 2), Tile(16, 128, 1, 3, parts=4)):
        assert difference(launch.quantized_batch(x, weight, None, tile), wanted) < 0.1


def test_an_input_with_gaps_is_read_as_it_is_meant() -> None:
    weight, x = for_kernel(stored(RowInt(4), 8, 64)), torch.randn(2, 128, device=DEVICE).half()[:, ::2]

    assert torch.equal(launch.quantized_batch(x, weight, None), launch.quantized_batch(x.contiguous(), weight, None))
