"""The rotation of rotary position embeddings as an operation of PyTorch, computed by a Triton kernel.

Legend: T tokens, H heads, D head size.
"""

from typing import Any

import torch
from torch import Tensor, library

from imprint.kernels.current_device import on_device
from imprint.kernels.tiles import power_of_two

HEADS = 8
"""Heads of a program."""


@library.custom_op("imprint::rotate", mutates_args=())
def rotate(x: Tensor, cos: Tensor, sin: Tensor, distance: int, back: bool) -> Tensor:  # noqa: FBT001
    """X (T, H, D) times `cos` (T, D), plus the other dimension of each pair, `distance` apart, times `sin` (T, D); `back`: times -sin."""
    from imprint.kernels.rotate_kernels import rotate_kernel

    x = x if x.stride(-1) == 1 else x.contiguous()
    tokens, heads, size = x.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    with on_device(x):
        rotate_kernel[(tokens, -(-heads // HEADS))](
            x, cos, sin, out, heads, x.stride(0), x.stride(1),
            D=size, COLUMNS=power_of_two(size), DISTANCE=distance, HEADS=HEADS, BACK=back, num_warps=4,
        )  # fmt: skip
    return out


@rotate.register_fake
def _(x: Tensor, cos: Tensor, sin: Tensor, distance: int, back: bool) -> Tensor:  # noqa: ARG001, FBT001
    return x.new_empty(x.shape)


def _save_angles(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 - called with these names
    _, cos, sin, ctx.distance, ctx.back = inputs
    ctx.save_for_backward(cos, sin)


def _gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return rotate(grad, *ctx.saved_tensors, ctx.distance, not ctx.back), None, None, None, None


rotate.register_autograd(_gradient, setup_context=_save_angles)
