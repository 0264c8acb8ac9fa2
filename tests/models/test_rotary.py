import pytest
import torch

from imprint.models.rotary import rotate
from tests.cases import difference


@pytest.mark.parametrize("distance", [1, 2, 4])
def test_the_dimensions_of_a_pair_turn_like_a_complex_number(distance: int) -> None:
    torch.manual_seed(0)
    x, angles = torch.randn(3, 2, 8), torch.randn(3, 8 // (2 * distance), distance)
    cos = torch.stack((angles.cos(), angles.cos()), 2).flatten(1)
    sin = torch.stack((-angles.sin(), angles.sin()), 2).flatten(1)

    turned = rotate(x, cos, sin, distance)

    first, second = x.unflatten(-1, (-1, 2, distance)).unbind(-2)
    expected = torch.complex(first, second) * torch.polar(torch.ones_like(angles), angles)[:, None]
    found = turned.unflatten(-1, (-1, 2, distance)).unbind(-2)
    assert difference(found[0], expected.real) < 1e-6
    assert difference(found[1], expected.imag) < 1e-6


def test_dimensions_without_an_angle_stay_bit_for_bit() -> None:
    x = torch.randn(3, 2, 8)

    assert torch.equal(rotate(x, torch.ones(3, 8), torch.zeros(3, 8), 1), x)
