from typing import Any

import pytest
import torch
from torch.nn import functional

from imprint.kernels.gated import Gated, JointGated
from tests.cases import difference
from tests.kernels.quantized_weights import DEVICE, needs_triton

gated: Any = Gated.apply
joint_gated: Any = JointGated.apply


@needs_triton
@pytest.mark.parametrize("gelu", [False, True], ids=["SwiGLU", "GeGLU"])
@pytest.mark.parametrize("joint", [False, True], ids=["two tensors", "one tensor"])
def test_values_and_gradients_are_those_of_pytorch_in_fp64(joint: bool, gelu: bool) -> None:  # noqa: FBT001
    torch.manual_seed(0)
    both = torch.randn(1, 3, 2 * 20, device=DEVICE, requires_grad=True)
    double = both.detach().double().requires_grad_()
    gate, up = double.chunk(2, -1)

    found = joint_gated(both, gelu) if joint else gated(*both.chunk(2, -1), gelu)
    expected = (functional.gelu(gate, approximate="tanh") if gelu else functional.silu(gate)) * up
    direction = torch.randn_like(found)

    assert difference(found, expected) < 1e-5
    (gradient,), (of_exact,) = torch.autograd.grad(found, both, direction), torch.autograd.grad(expected, double, direction.double())
    assert difference(gradient, of_exact) < 1e-5
