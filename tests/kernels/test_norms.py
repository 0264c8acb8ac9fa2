from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from imprint.kernels.norms import AddNorm, Norm, ResidualScale
from tests.cases import difference
from tests.kernels.quantized_weights import DEVICE, needs_triton

add_norm: Any = AddNorm.apply
norm: Any = Norm.apply
CENTRED = pytest.mark.parametrize("centred", [True, False], ids=["layer norm", "RMS norm"])


def exact(x: Tensor, weight: Tensor, bias: Tensor | None, offset: float, *, centred: bool) -> Tensor:
    """The norm by PyTorch."""
    shape = x.shape[-1:]
    if centred:
        return functional.layer_norm(x, shape, weight + offset, bias)
    return functional.rms_norm(x, shape, weight + offset, 1e-5)


@needs_triton
@CENTRED
@pytest.mark.parametrize("shape", [(5, 20), (1, 3, 4, 16)])
def test_a_norm_and_its_gradient_are_those_of_pytorch_in_fp64(shape: tuple[int, ...], centred: bool) -> None:  # noqa: FBT001
    torch.manual_seed(0)
    x = torch.randn(shape, device=DEVICE, requires_grad=True)
    weight, bias = torch.randn(2, shape[-1], device=DEVICE)
    double = x.detach().double().requires_grad_()

    found = norm(x, weight, bias if centred else None, 1e-5, 1.0, centred)
    expected = exact(double, weight.double(), bias.double() if centred else None, 1.0, centred=centred)
    direction = torch.randn_like(found)

    assert difference(found, expected) < 1e-5
    (gradient,), (of_exact,) = torch.autograd.grad(found, x, direction), torch.autograd.grad(expected, double, direction.double())
    assert difference(gradient, of_exact) < 1e-5


@needs_triton
@CENTRED
@pytest.mark.parametrize("used", [(True, True, True), (True, True, False), (False, True, True), (False, False, True), (True, False, False)])
def test_gradients_through_sum_norm_and_residual_add_up(used: tuple[bool, bool, bool], centred: bool) -> None:  # noqa: FBT001
    torch.manual_seed(0)
    inputs = [torch.randn(5, 20, device=DEVICE, requires_grad=True) for _ in range(2)]
    weight, bias = torch.randn(2, 20, device=DEVICE)
    doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
    directions = [torch.randn(5, 20, device=DEVICE) * there for there in used]
    later = ResidualScale()

    total, out, residual = add_norm(inputs[0], 7.5, inputs[1], weight, bias if centred else None, 1e-5, 0.0, centred, None, later)
    later.factor = 3.0  # what a later sum multiplies the residual by, whose gradient comes without it
    of_total = doubles[0] * 7.5 + doubles[1]
    of_out = exact(of_total, weight.double(), bias.double() if centred else None, 0.0, centred=centred)

    assert max(difference(total, of_total), difference(out, of_out), difference(residual, of_out)) < 1e-5
    found = [one for one, there in zip((total, out, residual), used, strict=True) if there]
    given = [one for one, there in zip(directions, used, strict=True) if there]
    gradients = torch.autograd.grad(found, inputs, given)
    expected = torch.autograd.grad((of_total, of_out, of_out * 3.0), doubles, [one.double() for one in directions])
    assert all(difference(one, of_exact) < 1e-5 for one, of_exact in zip(gradients, expected, strict=True))


@needs_triton
def test_a_residual_tells_the_norm_before_it_its_factor() -> None:
    x, y, z = torch.randn(3, 4, 16, device=DEVICE).unbind(0)
    x.requires_grad_()
    weight = torch.randn(16, device=DEVICE)
    first, second = ResidualScale(), ResidualScale()

    _, out, residual = add_norm(x, 2.0, y, weight, None, 1e-5, 0.0, False, None, first)
    _, last, _ = add_norm(residual, 5.0, z, weight, None, 1e-5, 0.0, False, first, second)
    middle = functional.rms_norm(x * 2 + y, (16,), weight, 1e-5)
    expected = functional.rms_norm(middle * 5 + z, (16,), weight, 1e-5)
    direction = torch.randn_like(expected)

    assert first.factor == 5.0
    (found,), (of_plain,) = (torch.autograd.grad(end, x, direction) for end in (last + 0 * out, expected))
    assert difference(found, of_plain) < 1e-5
