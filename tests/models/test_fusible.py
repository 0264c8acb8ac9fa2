import torch
from torch.nn import functional

from imprint.models.fusible import rms_norm, rotate_halves, swiglu
from tests.cases import difference


def test_without_a_mode_each_is_plain_pytorch() -> None:
    x, y = torch.randn(2, 3, 8).unbind(0)
    gate, values = x.chunk(2, -1)

    assert rms_norm(x, y[0], 1e-5, 0.0, torch.negative).equal(-x)
    assert difference(swiglu(x), functional.silu(gate) * values) == 0
    assert rotate_halves(x, y, x, y, lambda query, key, _cos, _sin: (key, query)) == (y, x)
