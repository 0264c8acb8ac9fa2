import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from imprint.kernels import available
from imprint.quant import dense
from imprint.quant.dense import DecodingLinear, choose_kernels, linear
from imprint.quant.kernels import KERNELS, PLAIN_KERNELS
from imprint.quant.linear import QuantizedLinear
from imprint.quant.row_int import RowInt
from tests.cases import difference
from tests.kernels.quantized_weights import DEVICE, needs_triton

FP16 = torch.float16


def network() -> nn.Sequential:
    layers = nn.Sequential(nn.Linear(16, 8), QuantizedLinear(8, 4, RowInt(8)), nn.Sequential(nn.Linear(4, 2, bias=False)))
    return layers.requires_grad_(False)


def random(*size: int) -> Tensor:
    return torch.randn(size, device=DEVICE).to(FP16)


def test_the_choice_reaches_every_linear_and_can_be_taken_back() -> None:
    model = network()
    before = {name: one.data_ptr() for name, one in model.named_parameters()}

    choose_kernels(model, "auto")

    assert [type(model.get_submodule(name)) for name in ("0", "2.0")] == [DecodingLinear, DecodingLinear]
    assert model.get_submodule("1").kernels == KERNELS
    assert {name: one.data_ptr() for name, one in model.named_parameters()} == before
    choose_kernels(model, "plain")
    assert [type(model.get_submodule(name)) for name in ("0", "2.0")] == [nn.Linear, nn.Linear]
    assert model.get_submodule("1").kernels == PLAIN_KERNELS


def test_on_a_cpu_it_is_the_product_of_pytorch_with_its_gradients() -> None:
    plain = nn.Linear(16, 8)
    fast = copy.deepcopy(plain)
    choose_kernels(nn.Sequential(fast), "auto")

    for layer in (plain, fast):
        layer(torch.ones(3, 16)).sin().sum().backward()

    assert type(fast) is DecodingLinear
    assert torch.equal(plain(torch.ones(1, 16)), fast(torch.ones(1, 16)))
    for one, other in zip(plain.parameters(), fast.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_one_token_without_a_gradient_is_decoded() -> None:
    x, weight, bias = random(1, 16), random(8, 16), random(8)

    assert dense._is_decoded(x, weight, bias)
    assert dense._is_decoded(x[None], weight, None)
    assert not dense._is_decoded(random(2, 16), weight, None)
    assert not dense._is_decoded(random(0, 16), weight, None)
    assert not dense._is_decoded(x, random(16, 8).t(), None)
    assert not dense._is_decoded(x, weight.float(), None)
    assert not dense._is_decoded(x, weight, bias.float())


def test_a_product_that_needs_a_gradient_is_pytorchs() -> None:
    x, weight = random(1, 16), random(8, 16).requires_grad_()

    assert not dense._is_decoded(x, weight, None)
    assert not dense._is_decoded(random(1, 16).requires_grad_(), random(8, 16), None)
    with torch.no_grad():
        assert dense._is_decoded(x, weight, None)


@needs_triton
@pytest.mark.parametrize("compiled", [False, True])
def test_the_kernel_has_the_result_of_pytorch(monkeypatch: pytest.MonkeyPatch, *, compiled: bool) -> None:
    monkeypatch.setattr(available, "usable", lambda index, dtype: True)
    monkeypatch.setattr(dense, "_on_gpu", lambda x: True)
    x, weight, bias = random(1, 40), random(8, 40), random(8)

    layer = DecodingLinear(40, 8).to(DEVICE, FP16)
    layer.load_state_dict({"weight": weight, "bias": bias})

    with torch.no_grad():
        for function in (linear, torch.compile(linear, backend="aot_eager", fullgraph=True)) if compiled else (linear,):
            assert difference(function(x, weight, bias), functional.linear(x, weight, bias)) < 2e-2
        found = (torch.compile(layer, backend="aot_eager", fullgraph=True) if compiled else layer)(x)
        assert difference(found, functional.linear(x, weight, bias)) < 2e-2
