import pytest
import torch

from imprint.kernels.rotate import rotate
from tests.cases import difference
from tests.kernels.quantized_weights import DEVICE, needs_triton


@needs_triton
@pytest.mark.parametrize(("size", "distance"), [(16, 4), (16, 1), (24, 6)])
def test_heads_and_their_gradients_turn_as_in_plain_pytorch(size: int, distance: int) -> None:
    torch.manual_seed(0)
    joint = torch.randn(5, 10, 3 * size, device=DEVICE, requires_grad=True)  # heads of a joint projection are not contiguous
    x = joint[..., size : 2 * size]
    cos, sin = torch.randn(2, 5, size, device=DEVICE)
    sin = torch.stack((-sin.view(5, -1, 2, distance)[:, :, 1], sin.view(5, -1, 2, distance)[:, :, 1]), 2).flatten(1)

    found = rotate(x, cos, sin, distance, False)
    expected = x * cos[:, None] + x.unflatten(-1, (-1, 2, distance)).flip(-2).flatten(-3) * sin[:, None]
    direction = torch.randn_like(expected)

    assert difference(found, expected) < 1e-5
    (gradient,), (of_plain,) = (torch.autograd.grad(out, joint, direction, retain_graph=True) for out in (found, expected))
    assert difference(gradient, of_plain) < 1e-5
