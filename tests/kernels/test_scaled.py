from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from imprint.kernels.scaled import ScaledMlp, ScaledWeight, scaled_linear
from imprint.models.step_fusion import FusedStep, computed
from imprint.quant import scaled_matmul
from imprint.quant.fp8 import ONES, TRANSPOSED, Fp8
from imprint.quant.linear import QuantizedLinear
from imprint.quant.weight_format import SCALE, WEIGHT
from tests.cases import difference

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
SAME = 1e-5 if DTYPE is torch.float32 else 0.05
"""Share by which two computations of the same differ."""
ROUNDED = 0.05
"""Share by which a product differs whose numbers are rounded."""


def weight(rows: int, columns: int, *, bias: bool = True) -> ScaledWeight:
    torch.manual_seed(rows)
    tensors = Fp8().quantize(torch.randn(rows, columns, device=DEVICE) * torch.rand(rows, 1, device=DEVICE))
    others = Fp8().backward_tensors(tensors)
    of_rows = torch.randn(rows, device=DEVICE, dtype=DTYPE) if bias else None
    return ScaledWeight(tensors[WEIGHT], tensors[SCALE], others[TRANSPOSED], others[ONES], of_rows)


def exact(x: Tensor, one: ScaledWeight) -> Tensor:
    values = Fp8().dequantize({WEIGHT: one.numbers, SCALE: one.scales}, slice(None), torch.float64)
    return functional.linear(x.double(), values, None if one.bias is None else one.bias.double())


def share(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double(), expected.detach()
    return float((found - expected).norm() / expected.norm())


def tokens(*shape: int) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(*shape, device=DEVICE, dtype=DTYPE).requires_grad_()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 32), (2, 3, 32)])
def test_a_product_and_its_gradient_are_those_of_the_weight_up_to_rounding(*, shape: tuple[int, ...], bias: bool) -> None:
    x, one = tokens(*shape), weight(48, 32, bias=bias)

    out, expected = scaled_linear(x, one), exact(x, one)
    direction = torch.randn_like(out)
    (gradient,) = torch.autograd.grad(out, x, direction)
    (of_exact,) = torch.autograd.grad(expected, x, direction.double())

    assert out.shape == expected.shape
    assert out.dtype is gradient.dtype is DTYPE
    assert 0.005 < share(out, expected) < ROUNDED
    assert 0.005 < share(gradient, of_exact) < ROUNDED


def test_products_of_numbers_that_fp8_has_are_exact() -> None:
    x = torch.tensor([[448.0, -1, 2, 0.5] * 8, [1.0, 2, 448, 0] * 8, [0.0] * 32], device=DEVICE, dtype=DTYPE)
    one = weight(16, 32, bias=False)

    assert difference(scaled_linear(x, one), exact(x, one)) < (1e-4 if DTYPE is torch.float32 else 1e-2) * float(exact(x, one).abs().max())


def test_two_products_around_gelu_are_those_of_the_weights_up_to_rounding() -> None:
    x, first, second = tokens(7, 32), weight(48, 32), weight(16, 48)

    out: Tensor = ScaledMlp.apply(x, first, second)  # type: ignore[no-untyped-call]
    expected = exact(functional.gelu(exact(x, first), approximate="tanh"), second)
    direction = torch.randn_like(out)
    (gradient,) = torch.autograd.grad(out, x, direction)
    (of_exact,) = torch.autograd.grad(expected, x, direction.double())

    assert share(out, expected) < ROUNDED
    assert share(gradient, of_exact) < 2 * ROUNDED
    separate = scaled_linear(functional.gelu(scaled_linear(x, first), approximate="tanh"), second)
    (of_separate,) = torch.autograd.grad(separate, x, direction)
    assert share(out, separate.double()) < SAME
    assert share(gradient, of_separate.double()) < SAME


def test_checkpointing_recomputes_no_product_and_keeps_the_gradient() -> None:
    one, calls = weight(32, 32), list[int]()

    def block(x: Tensor) -> Tensor:
        calls.append(1)
        return scaled_linear(x.sin(), one)

    x, again = tokens(4, 32), tokens(4, 32)
    checkpoint(block, x, use_reentrant=False).sum().backward()
    block(again).sum().backward()

    assert x.grad is not None
    assert again.grad is not None
    assert torch.equal(x.grad, again.grad)


class TestInTraining:
    def products(self, mode: FusedStep | None, approximate: str = "tanh") -> tuple[Tensor, Tensor]:
        first, second = QuantizedLinear(32, 48, Fp8(), bias=False), QuantizedLinear(48, 32, Fp8())
        for linear in (first, second):
            linear.tensors = Fp8().quantize(torch.randn(linear.rows, linear.columns, generator=torch.Generator().manual_seed(1)))
            linear.to(DEVICE, DTYPE).prepare_backward(DTYPE)
        assert second.bias is not None
        second.bias.data.zero_()
        x = tokens(5, 32)
        with mode or nullcontext():
            out = computed(second(functional.gelu(first(x), approximate=approximate)) * 2.0 + x)
        return out, torch.autograd.grad(out.sin().sum(), x)[0]

    @pytest.fixture(autouse=True)
    def _card(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scaled_matmul, "_usable", lambda device: True)
        monkeypatch.setattr(scaled_matmul, "DTYPES", {DTYPE})

    @pytest.mark.parametrize("gates", [False, True])
    def test_products_around_gelu_are_computed_together(self, *, gates: bool) -> None:
        mode = FusedStep(everywhere=True, gates=gates)

        (out, gradient), (expected, of_expected) = self.products(mode), self.products(None)

        assert mode.fused == 1
        assert share(out, expected.double()) < SAME
        assert share(gradient, of_expected.double()) < SAME

    def test_around_another_activation_they_are_not(self) -> None:
        mode = FusedStep(everywhere=True)

        (out, gradient), (expected, of_expected) = self.products(mode, "none"), self.products(None, "none")

        assert mode.fused == 0
        assert torch.equal(out, expected)
        assert torch.equal(gradient, of_expected)

    def test_in_decoding_they_are_not(self) -> None:
        mode = FusedStep(everywhere=True)
        linear = QuantizedLinear(32, 32, Fp8(), bias=False)
        linear.tensors = Fp8().quantize(torch.randn(32, 32))
        linear.to(DEVICE)
        with torch.no_grad(), mode:
            assert type(linear(tokens(1, 32))) is Tensor

    def test_an_activation_that_was_put_off_keeps_its_gradient_where_weights_are_dequantized(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(scaled_matmul, "_usable", lambda device: False)

        out, gradient = self.products(FusedStep(everywhere=True, gates=True))
        expected, of_expected = self.products(None)

        assert share(out, expected.double()) < SAME
        assert share(gradient, of_expected.double()) < SAME
