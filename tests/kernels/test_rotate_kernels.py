import torch

from imprint.kernels.rotate import rotate
from tests.cases import difference
from tests.kernels.quantized_weights import DEVICE, needs_triton


@needs_triton
def test_turning_back_gives_what_was_turned() -> None:
    torch.manual_seed(0)
    x, angles = torch.randn(5, 9, 16, device=DEVICE), torch.randn(5, 8, device=DEVICE)
    cos = torch.cat((angles.cos(), angles.cos()), -1)
    sin = torch.cat((-angles.sin(), angles.sin()), -1)

    turned = rotate(x, cos, sin, 8, False)

    assert difference(turned, x) > 0.1
    assert difference(rotate(turned, cos, sin, 8, True), x) < 1e-5
