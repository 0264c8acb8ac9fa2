import pytest
import torch

from imprint.kernels import launch
from imprint.kernels.tiles import Tile
from imprint.quant.row_int import RowInt
from imprint.quant.weight_format import WeightFormat
from tests.cases import difference
from tests.kernels.quantized_weights import DEVICE, DTYPES, every_dtype, every_format, for_kernel, needs_triton, stored

pytestmark = needs_triton
SHAPES = ((24, 1024), (7, 264))
"""(N, K): whole tiles, and tiles that are cut."""


@every_format
@every_dtype
class TestDequantize:
    @pytest.mark.parametrize(("rows", "columns"), SHAPES)
    def test_every_weight_is_the_same_to_the_last_bit(
        self, weight_format: WeightFormat, dtype: torch.dtype, rows: int, columns: int
    ) -> None:
        weight = stored(weight_format, rows, columns)

        assert torch.equal(launch.dequantize(for_kernel(weight), dtype), weight.dequantize(dtype))

    def test_some_rows_are_dequantized_alone(self, weight_format: WeightFormat, dtype: torch.dtype) -> None:
        weight = stored(weight_format, 20, 256, range(3, 16))

        assert torch.equal(launch.dequantize(for_kernel(weight), dtype, Tile(4, 32, 1)), weight.dequantize(dtype))


@pytest.mark.parametrize("bits", [4, 8])
def test_scales_that_have_the_dtype_of_the_weights_round_the_products_to_it(bits: int) -> None:
    weight_format = RowInt(8 if bits == 8 else 4, None)
    weight = stored(weight_format, 6, 64)

    assert torch.equal(launch.dequantize(for_kernel(weight), DTYPES[0]), weight.dequantize(DTYPES[0]))


@every_format
def test_a_row_whose_scale_is_not_finite_stays_so(weight_format: WeightFormat) -> None:
    weight = stored(weight_format, 4, 128)
    weight.tensors["weight_scale"][2] = float("nan")

    assert launch.dequantize(for_kernel(weight), DTYPES[0]).isnan().any(1).tolist() == [False, False, True, False]


@every_format
@every_dtype
class TestProducts:
    @pytest.mark.parametrize(("rows", "columns"), SHAPES)
    def test_a_token_is_multiplied_as_by_the_dequantized_weight(
        self, weight_format: WeightFormat, dtype: torch.dtype, rows: int, columns: int
    ) -> None:
        weight = stored(weight_format, rows, columns, range(2, rows))
        x, bias = (torch.randn(size, device=DEVICE).to(dtype) for size in ((1, columns), (rows - 2,)))
        exact = x.double() @ weight.dequantize(torch.float32).double().t() + bias.double()

        assert difference(launch.quantized_vector(x, for_kernel(weight), bias), exact) < torch.finfo(dtype).eps * float(exact.abs().max())

    def test_the_tile_changes_nothing_but_rounding(self, weight_format: WeightFormat, dtype: torch.dtype) -> None:
        weight, x = for_kernel(stored(weight_format, 24, 1096)), torch.randn(1, 1096, device=DEVICE).to(dtype)
        wanted = launch.quantized_vector(x, weight, None)

        for tile in (Tile(1, 32, 1), Tile(8, 64, 2), Tile(4, 32, 1, unroll=2), Tile(2, 16, 1, unroll=4)):
            assert difference(launch.quantized_vector(x, weight, None, tile), wanted) < 0.1

    def test_the_same_call_gives_the_same_bits(self, weight_format: WeightFormat, dtype: torch.dtype) -> None:
        weight, x = for_kernel(stored(weight_format, 24, 1024)), torch.randn(1, 1024, device=DEVICE).to(dtype)

        assert torch.equal(launch.quantized_vector(x, weight, None), launch.quantized_vector(x, weight, None))


@every_format
def test_what_integers_are_offset_by_costs_no_precision_where_all_inputs_are_positive(weight_format: WeightFormat) -> None:
    weight = stored(weight_format, 4, 8192)
    weight.tensors["weight_scale"].fill_(1)  # with which no product is rounded
    x = torch.rand(1, 8192, device=DEVICE) + 0.5
    exact = x.double() @ weight.dequantize(torch.float32).double().t()

    assert difference(launch.quantized_vector(x, for_kernel(weight), None), exact) < 5e-5 * float(exact.abs().max())
