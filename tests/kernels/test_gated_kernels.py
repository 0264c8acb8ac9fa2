from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.cases import difference
from tests.interpreted import use_interpreter


@pytest.mark.parametrize("gelu", [False, True])
def test_large_gates_stay_finite(gelu: bool) -> None:  # noqa: FBT001
    use_interpreter()
    from imprint.kernels.gated import Gated

    gate = torch.tensor([[-60.0, -30.0, -1.0, 0.0, 1.0, 30.0, 60.0]], requires_grad=True)
    gated: Any = Gated.apply
    out: Tensor = gated(gate, torch.ones_like(gate), gelu)
    (gradient,) = torch.autograd.grad(out.sum(), gate)

    assert difference(out, functional.gelu(gate, approximate="tanh") if gelu else functional.silu(gate)) < 1e-5
    assert bool(gradient.isfinite().all())
