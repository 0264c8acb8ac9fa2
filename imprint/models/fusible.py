"""Steps of a network that FusedStep (step_fusion.py) computes by one kernel each; outside of it they are plain PyTorch.

Legend: T packed tokens, C hidden size, F features of an MLP, H query heads, D head size.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function

from imprint.models.rotary import rotate

Rotation = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Queries, keys, cosines, sines -> the queries and keys, rotated."""


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """The RMS norm of x (..., C) times the weight plus `offset`: what `compute` computes of x."""
    if has_torch_function((x,)):
        out: Tensor = handle_torch_function(rms_norm, (x,), x, weight, eps, offset, compute)
        return out
    return compute(x)


def rotate_heads(query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, distance: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries (T, H, D), rotated keys, and values, of a projection that nothing else reads; cosines and sines as in `rotate`."""
    if torch.is_grad_enabled() and has_torch_function((query, key, value)):
        inputs = (query, key, value)
        out: tuple[Tensor, Tensor, Tensor] = handle_torch_function(rotate_heads, inputs, *inputs, cos, sin, distance)
        return out
    return rotate(query, cos, sin, distance), rotate(key, cos, sin, distance), value


def swiglu(joint: Tensor) -> Tensor:
    """SiLU of the first half of (T, 2 F) times the second half."""
    if has_torch_function((joint,)):
        out: Tensor = handle_torch_function(swiglu, (joint,), joint)
        return out
    gate, values = joint.chunk(2, -1)
    return functional.silu(gate) * values


def rotate_halves(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, compute: Rotation) -> tuple[Tensor, Tensor]:
    """Queries (1, H, T, D) and keys, rotated by angles whose cosines and sines are (1, T, D); half of D lies between the two of a pair.

    That is what `compute` computes of them; all sines have their own sign.
    """
    if has_torch_function((query, key)):
        out: tuple[Tensor, Tensor] = handle_torch_function(rotate_halves, (query, key), query, key, cos, sin, compute)
        return out
    return compute(query, key, cos, sin)
