import pytest
import torch
from torch import Tensor

from imprint.quant.formats import FORMATS
from imprint.quant.kernels import KERNELS, PLAIN_KERNELS, DequantMatmul
from imprint.quant.weight_format import StoredWeight, WeightFormat
from tests.cases import difference


def product(kernel: DequantMatmul, weight_format: WeightFormat, *, rows: int, columns: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Output and gradient, and both by autograd of the dequantized weight in float64."""
    torch.manual_seed(1)
    weight = StoredWeight(weight_format, weight_format.quantize(torch.randn(rows, columns)), columns, range(rows))
    bias, x = torch.randn(rows), torch.randn(5, columns, dtype=dtype).requires_grad_()
    exact_x = x.detach().double().requires_grad_()
    out = kernel.matmul(x, weight, bias.to(dtype))
    exact = exact_x @ weight.dequantize(torch.float64).t() + bias.to(dtype).double()
    for result in (out, exact):
        (result.double().sin().sum()).backward()
    assert x.grad is not None
    assert exact_x.grad is not None
    return out, exact, x.grad, exact_x.grad


@pytest.mark.parametrize("weight_format", FORMATS, ids=lambda one: str(one.title))
@pytest.mark.parametrize("kernel", PLAIN_KERNELS, ids=lambda one: type(one).__name__)
class TestPlainKernels:
    @pytest.mark.parametrize(("rows", "columns"), [(6, 8), (40, 128), (24, 300)])
    def test_products_and_gradients_are_those_of_the_dequantized_weight(
        self, kernel: DequantMatmul, weight_format: WeightFormat, rows: int, columns: int
    ) -> None:
        out, exact, grad, exact_grad = product(kernel, weight_format, rows=rows, columns=columns, dtype=torch.float32)

        assert difference(out, exact) < 1e-5 * float(exact.detach().abs().max()) + 1e-5
        assert difference(grad, exact_grad) < 2e-5 * float(exact_grad.abs().max()) + 1e-5

    def test_in_parts_they_are_the_same(self, kernel: DequantMatmul, weight_format: WeightFormat, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = product(kernel, weight_format, rows=20, columns=300, dtype=torch.float32)
        monkeypatch.setattr("imprint.quant.kernels.CPU_CHUNK_WEIGHTS", 7 * 300)

        parts = product(kernel, weight_format, rows=20, columns=300, dtype=torch.float32)

        assert max(difference(one, other) for one, other in zip(parts, whole, strict=True)) < 1e-4

    def test_some_rows_are_some_columns_of_the_product(self, kernel: DequantMatmul, weight_format: WeightFormat) -> None:
        weight = StoredWeight(weight_format, weight_format.quantize(torch.randn(20, 16)), 16, range(20))
        x = torch.randn(3, 16)
        first, second = weight.split(12)

        assert (first.rows, second.rows) == (range(12), range(12, 20))
        found = torch.cat([kernel.matmul(x, part, None) for part in (first, second)], -1)
        assert difference(found, kernel.matmul(x, weight, None)) < 1e-5


def test_the_last_kernel_supports_every_product() -> None:
    for weight_format in FORMATS:
        weight = StoredWeight(weight_format, weight_format.quantize(torch.randn(2, 6)), 6, range(2))
        assert KERNELS[-1].supports(torch.randn(1, 6), weight)
