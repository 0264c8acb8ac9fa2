"""Lets RMS norms and rotary positions of a transformers model be computed by one kernel each where FusedStep is on.

What a module or function computes is probed on random numbers; one that computes something else stays as it is. Legend: C hidden size, H
heads, D head size.
"""

import sys
from functools import cache, partial, wraps
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from imprint.models import fusible

OFFSETS = (0.0, 1.0)
"""What norms add to their weight."""
TOLERANCE = 1e-5
NAME = "apply_rotary_pos_emb"
"""How the code of every such model names the function that rotates queries and keys."""
PARAMETERS = ("q", "k", "cos", "sin", "unsqueeze_dim")
FUSIBLE = "_passes_through_fusible"


def let_norms_fuse(model: nn.Module) -> int:
    """Let every RMS norm of a model pass through `fusible.rms_norm`; names and parameters stay. Returns how many there are."""
    found = 0
    module: Any
    for module in model.modules():
        if isinstance(module, nn.RMSNorm | nn.LayerNorm) or [name for name, _ in module.named_parameters()] != ["weight"]:
            continue
        eps = next((value for name in ("variance_epsilon", "eps") if isinstance(value := getattr(module, name, None), float)), None)
        if eps is None or module.weight.dim() != 1 or (offset := _offset(module, eps)) is None:
            continue
        own: Any = type(module)
        module.__class__ = _fusible_class(own, eps, offset)
        found += 1
    return found


@cache
def _fusible_class(own: Any, eps: float, offset: float) -> type[nn.Module]:
    """The class of a norm, whose result may be computed in another way."""

    def forward(self: Any, x: Tensor) -> Tensor:
        return fusible.rms_norm(x, self.weight, eps, offset, partial(own.forward, self))

    return type(own.__name__, (own,), {"forward": forward, "__module__": own.__module__})


@torch.no_grad()
def _offset(module: Any, eps: float) -> float | None:
    """What an RMS norm adds to its weight; None for a module that computes something else."""
    columns, weight = len(module.weight), module.weight
    with torch.device("cpu"):  # a model without weights is on the meta device
        generator = torch.Generator().manual_seed(0)
        x, probe = torch.randn(3, columns, generator=generator), torch.randn(columns, generator=generator)
    x[1] *= eps**0.5  # where eps counts
    module.weight = nn.Parameter(probe, requires_grad=False)
    try:
        out = module(x)
    except Exception:  # a module of transformers may want anything
        return None
    finally:
        module.weight = weight
    if not isinstance(out, Tensor) or out.shape != x.shape:
        return None
    expected = ((offset, functional.rms_norm(x, (columns,), probe + offset, eps)) for offset in OFFSETS)
    return next((offset for offset, norm in expected if bool((out - norm).abs().max() <= TOLERANCE * norm.abs().max())), None)


def let_rotation_fuse(model: nn.Module) -> bool:
    """Let `apply_rotary_pos_emb` of the module that defines a model pass through `fusible.rotate_halves`, if it rotates halves."""
    code = sys.modules[type(model).__module__]
    rotate = getattr(code, NAME, None)
    if rotate is None or hasattr(rotate, FUSIBLE):
        return rotate is not None
    if tuple(signature(rotate).parameters) != PARAMETERS or not _rotates_halves(rotate):
        return False

    @wraps(rotate)
    def fusible_rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        if unsqueeze_dim != 1:
            rotated: tuple[Tensor, Tensor] = rotate(q, k, cos, sin, unsqueeze_dim)
            return rotated
        return fusible.rotate_halves(q, k, cos, sin, rotate)

    setattr(fusible_rotate, FUSIBLE, True)
    setattr(code, NAME, fusible_rotate)
    return True


@torch.no_grad()
def _rotates_halves(rotate: Any) -> bool:
    """Whether a function rotates queries and keys (1, H, T, D), where half of D lies between the two of a pair."""
    try:
        with torch.device("cpu"):
            generator = torch.Generator().manual_seed(0)
            heads, angles = torch.randn(2, 1, 2, 3, 8, generator=generator), torch.randn(2, 1, 3, 8, generator=generator)
        found = rotate(*heads, *angles)
        return all(torch.allclose(one, _rotated(x, *angles), atol=TOLERANCE) for one, x in zip(found, heads, strict=True))
    except Exception:  # a function of transformers may want anything
        return False


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat((-second, first), -1) * sin[:, None]
