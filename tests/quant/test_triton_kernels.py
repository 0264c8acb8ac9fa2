from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from imprint.kernels import available
from imprint.quant import linear, triton_kernels
from imprint.quant.formats import FORMATS
from imprint.quant.kernels import KERNELS, PLAIN_KERNELS, DequantMatmul, LinearKernel
from imprint.quant.linear import QuantizedLinear
from imprint.quant.row_int import RowInt
from imprint.quant.triton_kernels import QuantizedMatmul, TritonDequantMatmul
from imprint.quant.weight_format import StoredWeight, WeightFormat
from tests.cases import difference
from tests.kernels.quantized_weights import DEVICE, every_format, needs_triton, stored

FP16 = torch.float16


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that is always there, in the interpreter."""
    monkeypatch.setattr(triton_kernels, "_on_gpu", lambda x, weight: True)
    monkeypatch.setattr(available, "usable", lambda index, dtype, matrix=False: dtype == FP16)


def first(x: Tensor, weight: StoredWeight) -> str:
    """The name of the kernel that is chosen."""
    return type(next(kernel for kernel in KERNELS if kernel.supports(x, weight))).__name__


def random(tokens: int, columns: int, dtype: torch.dtype = FP16) -> Tensor:
    return torch.randn(tokens, columns, device=DEVICE).to(dtype)


def counted(matmul: Callable[..., Tensor], rows: list[int]) -> Callable[..., Tensor]:
    """A product that adds the number of its rows to `rows`."""

    def compute(kernel: LinearKernel, x: Tensor, weight: StoredWeight, bias: Tensor | None) -> Tensor:
        rows.append(len(weight.rows))
        return matmul(kernel, x, weight, bias)

    return compute


@pytest.mark.parametrize("weight_format", FORMATS, ids=lambda one: str(one.title))
def test_on_a_cpu_plain_pytorch_computes_everything(weight_format: WeightFormat) -> None:
    weight = StoredWeight(weight_format, weight_format.quantize(torch.randn(4, 16)), 16, range(4))

    assert first(torch.randn(1, 16), weight) == first(torch.randn(40, 16), weight) == "DequantMatmul"


@pytest.mark.usefixtures("gpu")
class TestOnAGPU:
    def test_few_tokens_are_multiplied_by_the_integers_and_many_by_the_weight(self) -> None:
        weight = stored(RowInt(4), 4, 16)

        assert [first(random(tokens, 16), weight) for tokens in (1, 64, 65)] == [
            "QuantizedMatmul",
            "QuantizedMatmul",
            "TritonDequantMatmul",
        ]

    def test_a_product_with_a_gradient_dequantizes(self) -> None:
        weight, x = stored(RowInt(4), 4, 16), random(1, 16).requires_grad_()

        assert first(x, weight) == "TritonDequantMatmul"
        with torch.no_grad():
            assert first(x, weight) == "QuantizedMatmul"

    def test_what_they_do_not_compute_falls_back(self) -> None:
        assert first(random(1, 12), stored(RowInt(4), 4, 12)) == "DequantMatmul"  # no whole words
        assert first(random(1, 12), stored(RowInt(8), 4, 12)) == "QuantizedMatmul"
        assert first(random(1, 16, torch.float32), stored(RowInt(4), 4, 16)) == "DequantMatmul"
        assert first(random(0, 16), stored(RowInt(4), 4, 16)) == "DequantMatmul"

    @needs_triton
    @every_format
    @pytest.mark.parametrize("tokens", [1, 5, 40])
    def test_products_are_those_of_plain_pytorch(self, weight_format: WeightFormat, tokens: int) -> None:
        weight, x, bias = stored(weight_format, 20, 264, range(4, 20)), random(tokens, 264), random(1, 16)[0]
        wanted = DequantMatmul().matmul(x, weight, bias)

        for kernel in (QuantizedMatmul(), TritonDequantMatmul()):
            if kernel.supports(x, weight):
                assert difference(kernel.matmul(x, weight, bias), wanted) < 2e-3 * float(wanted.abs().max())

    @needs_triton
    @every_format
    @pytest.mark.parametrize(("tokens", "products"), [(1, [20]), (64, [20]), (65, [8, 8, 4])])
    def test_a_head_is_multiplied_at_once_where_nothing_is_dequantized(
        self, weight_format: WeightFormat, tokens: int, products: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(linear, "HEAD_CHUNK_ROWS", 8)
        computed: list[int] = []
        for kernel in (QuantizedMatmul, TritonDequantMatmul):
            monkeypatch.setattr(kernel, "matmul", counted(kernel.matmul, computed))
        head, hidden = linear.QuantizedEmbedding(20, 64, weight_format), random(tokens, 64)
        head.tensors = dict(stored(weight_format, 20, 64).tensors)
        wanted = hidden @ head.dequantize(FP16).t()

        with torch.no_grad():
            assert difference(head.logits(hidden), wanted) < 2e-3 * float(wanted.abs().max())
        assert computed == products

    @needs_triton
    @every_format
    def test_a_layer_is_compiled_in_one_graph_with_the_same_gradient(self, weight_format: WeightFormat) -> None:
        layer = QuantizedLinear(64, 8, weight_format).to(DEVICE, FP16)
        layer.tensors = {name: one.to(DEVICE) for name, one in weight_format.quantize(torch.randn(8, 64)).items()}
        layer.bias = torch.nn.Parameter(torch.ones(8, device=DEVICE, dtype=FP16), requires_grad=False)
        results: list[Tensor] = []
        for function in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
            x = torch.linspace(-1, 1, 64 * 20, device=DEVICE, dtype=FP16).view(20, 64).requires_grad_()
            out = function(x)
            out.sum().backward()
            assert x.grad is not None
            results += [out, x.grad]

        assert torch.equal(results[0], results[2])
        assert torch.equal(results[1], results[3])


def test_plain_kernels_are_the_last_ones() -> None:
    assert KERNELS[-1:] == PLAIN_KERNELS
    assert isinstance(PLAIN_KERNELS[0], DequantMatmul)
