"""A gated activation, as in SwiGLU and GeGLU, as an operation of PyTorch that Triton kernels compute.

Legend: T tokens, F features.
"""

from typing import Any

import torch
from torch import Tensor, library

from imprint.kernels.current_device import on_device
from imprint.kernels.tiles import power_of_two

BLOCK = 1024
"""Features of a program."""


@library.custom_op("imprint::gated", mutates_args=())
def gated(gate: Tensor, up: Tensor, gelu: bool) -> Tensor:  # noqa: FBT001
    """SiLU of the gate (..., F), or the tanh approximation of its GELU, times `up` (..., F)."""
    from imprint.kernels.gated_kernels import gated_kernel

    rows = _rows(gate), _rows(up)
    out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    tokens, features = rows[0].shape
    block = min(BLOCK, power_of_two(features))
    with on_device(gate):
        gated_kernel[(-(-features // block), tokens)](
            *rows, out, rows[0].stride(0), rows[1].stride(0), F=features, BLOCK=block, GELU=gelu, num_warps=4
        )
    return out


@gated.register_fake
def _(gate: Tensor, up: Tensor, gelu: bool) -> Tensor:  # noqa: ARG001, FBT001
    return gate.new_empty(gate.shape)


@library.custom_op("imprint::gated_gradients", mutates_args=())
def gated_gradients(gate: Tensor, up: Tensor, grad: Tensor, gelu: bool) -> Tensor:  # noqa: FBT001
    """The gradients of the gate and of `up`, beside each other: (T, 2, F)."""
    from imprint.kernels.gated_kernels import gated_gradient_kernel

    rows, grad = (_rows(gate), _rows(up)), grad.contiguous()
    tokens, features = rows[0].shape
    grads = torch.empty((tokens, 2, features), dtype=gate.dtype, device=gate.device)
    block = min(BLOCK, power_of_two(features))
    with on_device(gate):
        gated_gradient_kernel[(-(-features // block), tokens)](
            *rows, grad, grads[:, 0], grads[:, 1], rows[0].stride(0), rows[1].stride(0), grads.stride(0),
            F=features, BLOCK=block, GELU=gelu, num_warps=4,
        )  # fmt: skip
    return grads


@gated_gradients.register_fake
def _(gate: Tensor, up: Tensor, grad: Tensor, gelu: bool) -> Tensor:  # noqa: ARG001, FBT001
    return gate.new_empty((gate.numel() // gate.shape[-1], 2, gate.shape[-1]))


class Gated(torch.autograd.Function):
    """The activation of one tensor, times another."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, gelu: bool) -> Tensor:  # noqa: FBT001
        """As `gated`."""
        ctx.save_for_backward(gate, up)
        ctx.gelu = gelu
        out: Tensor = gated(gate, up, gelu)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """The gradients of the gate and of `up`."""
        gate, up = ctx.saved_tensors
        gate_grad, up_grad = gated_gradients(gate, up, grads[0], ctx.gelu).unbind(1)
        return gate_grad.view(gate.shape), up_grad.view(up.shape), None


class JointGated(torch.autograd.Function):
    """The same of the two halves of one tensor (..., 2 F), whose gradient is written as one."""

    @staticmethod
    def forward(ctx: Any, joint: Tensor, gelu: bool) -> Tensor:  # noqa: FBT001
        """As `gated`."""
        ctx.save_for_backward(joint)
        ctx.gelu = gelu
        out: Tensor = gated(*joint.chunk(2, -1), gelu)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """The gradient of the joint tensor."""
        (joint,) = ctx.saved_tensors
        return gated_gradients(*joint.chunk(2, -1), grads[0], ctx.gelu).view(joint.shape), None


def _rows(x: Tensor) -> Tensor:
    """(..., F) -> (T, F), with rows of any stride."""
    x = x.flatten(0, -2)
    return x if x.stride(-1) == 1 else x.contiguous()
