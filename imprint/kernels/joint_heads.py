"""Queries, keys and values as parts of one tensor, and their rotation in place, as an operation of PyTorch.

Legend: T tokens, H query heads, G heads of keys and values, D head size, W = (H + 2 G) D.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, library

from imprint.kernels.current_device import on_device
from imprint.kernels.tiles import power_of_two

HEADS = 16
"""Heads of a program."""


@dataclass(frozen=True)
class JointHeads:
    """Where queries, keys and values stand in the rows of a contiguous tensor (T, W), which they fill."""

    width: int
    """W."""
    size: int
    """D."""
    heads: tuple[int, int, int]
    """H, G, G."""
    begins: tuple[int, int, int]
    """Columns of their first heads."""
    strides: tuple[int, int, int]
    """Columns between their heads."""

    @classmethod
    def of(cls, parts: Sequence[Tensor]) -> "JointHeads | None":
        """The places of queries (T, H, D), keys and values (T, G, D); None if they are not all there is in one tensor."""
        storages = {part.untyped_storage()._cdata for part in parts}
        width, size = sum(part.shape[1:].numel() for part in parts), parts[0].shape[-1]
        if len(storages) > 1 or any(part.dim() != 3 or part.stride(0) != width or part.stride(2) != 1 for part in parts):
            return None
        offsets = [int(part.storage_offset()) for part in parts]
        first = min(offsets)
        query, key, value = parts
        layout = cls(
            width,
            size,
            (query.shape[1], key.shape[1], value.shape[1]),
            (offsets[0] - first, offsets[1] - first, offsets[2] - first),
            (query.stride(1), key.stride(1), value.stride(1)),
        )
        return layout if layout._fills() else None

    def _fills(self) -> bool:
        """Whether no two heads share a column, and none is beyond the row."""
        columns = [
            begin + head * stride
            for number, begin, stride in zip(self.heads, self.begins, self.strides, strict=True)
            for head in range(number)
        ]
        return sorted(columns) == list(range(0, self.width, self.size))

    def parts(self, joint: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a joint tensor (T, W)."""
        offset, rows = joint.storage_offset(), len(joint)
        query, key, value = (
            joint.as_strided((rows, number, self.size), (self.width, stride, 1), offset + begin)
            for number, begin, stride in zip(self.heads, self.begins, self.strides, strict=True)
        )
        return query, key, value

    def joint(self, parts: Sequence[Tensor]) -> Tensor:
        """The joint tensor (T, W) that these are the parts of; a new one unless they share their memory so."""
        if JointHeads.of(parts) == self:
            return parts[0].as_strided((len(parts[0]), self.width), (self.width, 1), min(part.storage_offset() for part in parts))
        joint = parts[0].new_empty((len(parts[0]), self.width))
        for view, part in zip(self.parts(joint), parts, strict=True):
            view.copy_(part)
        return joint


@library.custom_op("imprint::rotate_joint", mutates_args=("joint",))
def rotate_joint(
    joint: Tensor,
    cos: Tensor,
    sin: Tensor,
    heads: list[int],
    begins: list[int],
    strides: list[int],
    distance: int,
    back: bool,  # noqa: FBT001
) -> None:
    """Rotate the queries and keys of a joint tensor (T, W), as `rotate` does."""
    from imprint.kernels.rotate_kernels import rotate_joint_kernel

    size = cos.shape[-1]
    with on_device(joint):
        rotate_joint_kernel[(len(joint), -(-(heads[0] + heads[1]) // HEADS))](
            joint, cos, sin, joint.stride(0), begins[0], strides[0], begins[1], strides[1], QUERIES=heads[0], KEYS=heads[1],
            D=size, PAIRS=power_of_two(size // 2), DISTANCE=distance, HEADS=HEADS, BACK=back, num_warps=4,
        )  # fmt: skip


@rotate_joint.register_fake
def _(*_: Any) -> None:
    return None


class RotateHeads(torch.autograd.Function):
    """Queries, keys and values of a joint tensor, the first two rotated in its memory; their gradients become one tensor again."""

    @staticmethod
    def forward(ctx: Any, joint: Tensor, layout: JointHeads, cos: Tensor, sin: Tensor, distance: int) -> tuple[Tensor, ...]:
        """`joint` (T, W) is changed: nothing else may need it."""
        ctx.save_for_backward(cos, sin)
        ctx.shape = joint.shape
        ctx.layout, ctx.distance = layout, distance
        joint = joint.detach().view(-1, layout.width)
        _rotate(joint, layout, cos, sin, distance, back=False)
        return tuple(part.detach() for part in layout.parts(joint))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """The gradient of the joint tensor."""
        joint, (cos, sin) = ctx.layout.joint(grads), ctx.saved_tensors
        _rotate(joint, ctx.layout, cos, sin, ctx.distance, back=True)
        return joint.view(ctx.shape), None, None, None, None


def _rotate(joint: Tensor, layout: JointHeads, cos: Tensor, sin: Tensor, distance: int, *, back: bool) -> None:
    rotate_joint(joint, cos, sin, list(layout.heads), list(layout.begins), list(layout.strides), distance, back)
