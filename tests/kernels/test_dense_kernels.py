import pytest
import torch
from torch.nn import functional

from imprint.kernels import launch
from imprint.kernels.tiles import Tile
from tests.cases import difference
from tests.kernels.quantized_weights import DEVICE, every_dtype, needs_triton

pytestmark = needs_triton


@every_dtype
@pytest.mark.parametrize(("rows", "columns"), [(24, 1024), (7, 264), (3, 5)])
@pytest.mark.parametrize("tile", [None, Tile(2, 64, 1)])
def test_a_token_is_multiplied_as_by_pytorch(dtype: torch.dtype, rows: int, columns: int, tile: Tile | None) -> None:
    torch.manual_seed(rows)
    x, weight, bias = (torch.randn(size, device=DEVICE).to(dtype) for size in ((1, columns), (rows, columns), (rows,)))
    exact = x.double() @ weight.double().t()

    for added in (None, bias):
        wanted = exact if added is None else exact + added.double()
        assert difference(launch.dense_vector(x, weight, added, tile), wanted) < torch.finfo(dtype).eps * float(wanted.abs().max())


@every_dtype
def test_the_gelu_behind_a_product_is_that_of_the_stored_product(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(size, device=DEVICE).to(dtype) for size in ((1, 264), (20, 264), (20,)))
    for factor in (0.1, 1.0, 30.0):
        product = launch.dense_vector(x * factor, weight, bias)
        wanted = functional.gelu(product, approximate="tanh")
        found = launch.dense_vector(x * factor, weight, bias, gelu=True)
        assert difference(found, wanted) <= torch.finfo(dtype).eps * max(1.0, float(wanted.abs().max()))
