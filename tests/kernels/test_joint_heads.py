from typing import Any

import pytest
import torch
from torch import Tensor

from imprint.kernels.attend_packed import attend_packed
from imprint.kernels.joint_heads import JointHeads, RotateHeads
from imprint.models.rotary import rotate
from tests.cases import difference
from tests.kernels.quantized_weights import DEVICE, needs_triton

TOKENS, SIZE = 5, 16
rotate_heads: Any = RotateHeads.apply


def head_by_head(joint: Tensor) -> tuple[Tensor, ...]:
    return joint.view(TOKENS, -1, 3 * SIZE).chunk(3, -1)


def in_blocks(joint: Tensor) -> tuple[Tensor, ...]:
    widths = [4 * SIZE, SIZE, SIZE]
    return tuple(part.unflatten(-1, (-1, SIZE)) for part in joint.split(widths, -1))


BOTH = pytest.mark.parametrize("split", [head_by_head, in_blocks])


@BOTH
def test_parts_of_one_tensor_are_found_and_put_together(split: Any) -> None:
    joint = torch.randn(TOKENS, 6 * SIZE)
    parts = split(joint)
    layout = JointHeads.of(parts)

    assert layout is not None
    assert layout.joint(parts).data_ptr() == joint.data_ptr()
    assert all(one.equal(other) for one, other in zip(layout.parts(joint), parts, strict=True))
    copied = layout.joint([part.clone() for part in parts])
    assert copied.equal(joint)
    assert copied.data_ptr() != joint.data_ptr()


def test_other_tensors_are_no_parts_of_one() -> None:
    joint = torch.randn(TOKENS, 6 * SIZE)
    query, key, value = in_blocks(joint)

    assert JointHeads.of((query, key, value.clone())) is None
    assert JointHeads.of((query, key, key)) is None
    assert JointHeads.of((query, key[:, :, :8], value[:, :, :8])) is None


@needs_triton
@BOTH
@pytest.mark.parametrize("distance", [1, 4, 8])
def test_a_rotation_in_place_and_its_gradient_are_those_of_plain_pytorch(split: Any, distance: int) -> None:
    torch.manual_seed(0)
    source = torch.randn(TOKENS, 6 * SIZE, device=DEVICE, requires_grad=True)
    cos, sin = torch.randn(2, TOKENS, SIZE, device=DEVICE)
    sin = torch.stack((-sin.view(TOKENS, -1, 2, distance)[:, :, 1], sin.view(TOKENS, -1, 2, distance)[:, :, 1]), 2).flatten(1)
    query, key, value = split(source.double())
    expected = (rotate(query, cos, sin, distance), rotate(key, cos, sin, distance), value)
    joint = source * 1.0  # nothing else reads it

    found = rotate_heads(joint, JointHeads.of(split(joint)), cos, sin, distance)
    directions = [torch.randn_like(one) for one in found]

    assert all(difference(one, of_plain) < 1e-5 for one, of_plain in zip(found, expected, strict=True))
    (gradient,) = torch.autograd.grad(found, source, directions)
    (of_plain,) = torch.autograd.grad(expected, source, [one.double() for one in directions])
    assert difference(gradient, of_plain) < 1e-5


@needs_triton
@BOTH
def test_attention_writes_the_gradients_of_parts_into_one_tensor(split: Any) -> None:
    torch.manual_seed(0)
    joint = torch.randn(TOKENS, 6 * SIZE, device=DEVICE)
    apart = [part.clone().requires_grad_() for part in split(joint)]
    layout = JointHeads.of(split(joint))
    together = [part.detach().requires_grad_() for part in split(joint)]
    first, end = torch.zeros(TOKENS, device=DEVICE).int(), (torch.arange(TOKENS, device=DEVICE) + 1).int()
    ranges = (first, end, torch.full_like(first, TOKENS), first)

    found, expected = (attend_packed(*parts, None, None, *ranges, None, None, None)[0] for parts in (together, apart))
    direction = torch.randn_like(found)
    gradients = torch.autograd.grad(found, together, direction)

    assert difference(found, expected) < 1e-6
    assert JointHeads.of(gradients) == layout
    assert layout is not None
    assert all(difference(*pair) < 1e-6 for pair in zip(gradients, torch.autograd.grad(expected, apart, direction), strict=True))


@needs_triton
def test_a_projection_that_something_else_needs_is_told() -> None:
    source = torch.randn(TOKENS, 6 * SIZE, device=DEVICE, requires_grad=True)
    joint = source * 1.0
    squared = joint.square()
    layout = JointHeads.of(in_blocks(joint))
    rotate_heads(joint, layout, torch.ones(TOKENS, SIZE, device=DEVICE), torch.zeros(TOKENS, SIZE, device=DEVICE), 8)

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.sum().backward()
