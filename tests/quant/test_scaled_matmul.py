import pytest
import torch
from torch import Tensor

from imprint.kernels import available
from imprint.messages import Bilingual
from imprint.quant import scaled_matmul
from imprint.quant.dense import choose_kernels
from imprint.quant.fp8 import TRANSPOSED, Fp8
from imprint.quant.kernels import KERNELS
from imprint.quant.linear import QuantizedLinear, dequantized_products, prepare_backward
from imprint.quant.row_int import RowInt
from imprint.quant.scaled_matmul import ScaledMatmul
from imprint.quant.weight_format import StoredWeight, WeightFormat
from tests.cases import difference

BF16 = torch.bfloat16


@pytest.fixture
def _card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card that multiplies FP8; plain PyTorch computes what it does."""
    monkeypatch.setattr(scaled_matmul, "_usable", lambda device: device.type == "cpu")


def linear(rows: int = 32, columns: int = 48, weight_format: WeightFormat = Fp8()) -> QuantizedLinear:  # noqa: B008 - a frozen value
    torch.manual_seed(0)
    made = QuantizedLinear(columns, rows, weight_format, bias=False)
    made.tensors = weight_format.quantize(torch.randn(rows, columns))
    return made


def kernel(x: Tensor, one: QuantizedLinear, rows: range | None = None) -> str:
    weight = StoredWeight(one.weight_format, one.tensors | one.backward_tensors, one.columns, range(one.rows) if rows is None else rows)
    return type(next(kernel for kernel in KERNELS if kernel.supports(x, weight))).__name__


def tokens(columns: int = 48, dtype: torch.dtype = BF16, count: int = 3) -> Tensor:
    return torch.randn(count, columns).to(dtype)


@pytest.mark.usefixtures("_card")
class TestOnACard:
    def test_tokens_of_16_bits_are_rounded_and_multiplied(self) -> None:
        one, x = linear(), tokens()

        assert kernel(x, one) == "ScaledMatmul"
        assert kernel(x.half(), one) == "ScaledMatmul"
        assert 0 < difference(one(x), x.float() @ one.dequantize(torch.float32).t()) < 1

    def test_a_gradient_needs_the_weight_along_the_other_axis(self) -> None:
        one, x = linear(), tokens().requires_grad_()
        assert kernel(x, one) == "DequantMatmul"

        prepare_backward(torch.nn.Sequential(one), BF16)
        assert kernel(x, one) == "ScaledMatmul"
        one(x).sum().backward()

        assert x.grad is not None
        assert difference(x.grad, one.dequantize(torch.float32).sum(0).expand(3, -1)) < 0.8
        assert set(one.state_dict()) == {"weight", "weight_scale"}  # files have no second copy

    def test_what_they_do_not_compute_is_dequantized(self) -> None:
        one = linear()
        assert kernel(tokens(dtype=torch.float32), one) == "DequantMatmul"
        assert kernel(tokens(count=0), one) == "DequantMatmul"
        assert kernel(tokens(), one, range(16)) == "DequantMatmul"
        assert kernel(tokens(), linear(rows=30)) == "DequantMatmul"
        assert kernel(tokens(columns=40), linear(columns=40)) == "DequantMatmul"
        assert kernel(tokens(), linear(weight_format=RowInt(8))) == "DequantMatmul"

    def test_only_products_that_are_rounded_keep_a_second_copy(self) -> None:
        for one, dtype in ((linear(), torch.float32), (linear(rows=30), BF16), (linear(weight_format=RowInt(8)), BF16)):
            one.prepare_backward(dtype)
            assert one.backward_tensors == {}
        plain = linear()
        choose_kernels(plain, "plain")
        plain.prepare_backward(BF16)
        assert plain.backward_tensors == {}

    def test_a_copy_that_moves_has_none(self) -> None:
        one = linear()
        one.prepare_backward(BF16)
        assert TRANSPOSED in one.backward_tensors

        assert one.to("meta").backward_tensors == {}


def test_without_such_a_card_weights_are_dequantized(monkeypatch: pytest.MonkeyPatch) -> None:
    one = linear()
    one.prepare_backward(BF16)

    assert one.backward_tensors == {}
    assert kernel(tokens(), one) == "DequantMatmul"
    monkeypatch.setattr(available, "fp8_problem", lambda index: Bilingual("too old", "太旧"))
    assert not scaled_matmul._usable(torch.device("cuda", 0))
    assert not ScaledMatmul().supports(tokens(), StoredWeight(Fp8(), one.tensors, 48, range(32)))


@pytest.mark.usefixtures("_card")
def test_a_network_can_be_checked_without_rounding_what_it_multiplies() -> None:
    one, x = linear(), tokens()
    rounded, exact = one(x), x.float() @ one.dequantize(torch.float32).t()

    with dequantized_products(torch.nn.Sequential(one)):
        assert difference(one(x), exact) < 0.1 < difference(rounded, exact)

    assert torch.equal(one(x), rounded)
