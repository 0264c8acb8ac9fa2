"""Computes a pass with fewer kernels than the network's own lines have: those lines stay as they are.

Inside the mode, a sum of hidden states is put off until the norm behind it, so that one kernel computes both, with gradients where there
are any; an activation waits for what it is multiplied by, and the rotation of a decoding step for the attention; the weight in a product of
one token is read from memory at full speed, and such a product waits for a GELU behind it. It is on while a decoding step is captured, and
in the passes of training on one GPU. Legend: T tokens, C hidden size.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from imprint.kernels import available, ops
from imprint.kernels.joint_heads import JointHeads, RotateHeads
from imprint.kernels.scaled import ScaledMlp, ScaledWeight, scaled_linear
from imprint.models import fusible
from imprint.models.pending import Pending, values
from imprint.models.rotary import PendingRotation, rotate
from imprint.quant.dense import linear

TRAINING = True
"""Whether passes of training are computed so."""
PRODUCTS_WITH_GELU = True
"""Whether the kernel of a product of one token computes the GELU behind it, too."""


class PendingSum(Pending):
    """base * factor + other, (..., C); without another term a product."""

    def __init__(self, base: Tensor, factor: float, other: Tensor | None, residual: tuple[Tensor, Any] | None = None) -> None:
        super().__init__()
        self.base = base
        self.factor = factor
        self.other = other
        self.residual = residual
        """A second output of the norm that `base` comes from, and what that norm is told of the factor (kernels/norms.py)."""

    def _compute(self) -> Tensor:
        scaled = self.base if self.factor == 1 else self.base * self.factor
        return scaled if self.other is None else scaled + self.other


class PendingLike(Pending):
    """A pending value whose shape, dtype and device are read from `like`, so that asking for them computes nothing."""

    like: Any

    @property
    def shape(self) -> torch.Size:
        """Of the tensor."""
        shape: torch.Size = self.like.shape
        return shape

    @property
    def dtype(self) -> torch.dtype:
        """Of the tensor."""
        dtype: torch.dtype = self.like.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        """Of the tensor."""
        return torch.device(self.like.device)

    @property
    def is_cuda(self) -> bool:
        """Whether it is on a GPU."""
        return bool(self.like.is_cuda)

    @property
    def requires_grad(self) -> bool:
        """Whether gradients go through it."""
        return bool(self.like.requires_grad)

    def numel(self) -> int:
        """Number of elements."""
        return self.shape.numel()


class PendingActivation(PendingLike):
    """SiLU, or the tanh approximation of GELU."""

    def __init__(self, x: "Tensor | PendingScaledProduct", *, gelu: bool) -> None:
        super().__init__()
        self.x = self.like = x
        self.gelu = gelu

    def _compute(self) -> Tensor:
        x = computed(self.x)
        return functional.gelu(x, approximate="tanh") if self.gelu else functional.silu(x)


class PendingProduct(Pending):
    """A product of one token by a kernel, which can take the tanh approximation of GELU of it, too."""

    def __init__(self, function: Callable[..., Tensor], inputs: tuple[Any, ...]) -> None:
        super().__init__()
        self.function = function
        self.inputs = inputs

    def _compute(self) -> Tensor:
        return self.function(*self.inputs)

    def activated(self) -> Tensor:
        """GELU of the product, by the same kernel."""
        return self.function(*self.inputs, gelu=True)


class PendingScaledProduct(PendingProduct, PendingLike):
    """A product of FP8 that may be the first of two with GELU between them."""

    def __init__(self, x: Tensor, weight: ScaledWeight) -> None:
        super().__init__(scaled_linear, (x, weight))
        self.x = self.like = x
        self.weight = weight

    @property
    def shape(self) -> torch.Size:
        """Of the product."""
        return torch.Size((*self.x.shape[:-1], len(self.weight.numbers)))


class FusedStep(TorchFunctionMode):
    """The mode. `everywhere`: on any device and in any dtype, as in Triton's interpreter; `gates`: activations are put off, too."""

    def __init__(self, *, everywhere: bool = False, gates: bool = False) -> None:
        super().__init__()
        self.everywhere = everywhere
        self.gates = gates
        self.fused = 0
        """Number of operations that were computed in another way."""
        self._pending: WeakSet[Pending] = WeakSet()
        """The values whose computation was deferred, as long as something holds them."""
        self._residuals = WeakTensorKeyDictionary()
        self._signed: tuple[Tensor, Tensor] | None = None
        self._functions: dict[Any, Callable[..., Any]] = {
            torch.Tensor.mul: self._multiply,
            torch.mul: self._multiply,
            torch.Tensor.add: self._add,
            torch.add: self._add,
            functional.layer_norm: self._layer_norm,
            functional.rms_norm: self._rms_norm,
            functional.linear: self._linear,
            functional.silu: self._silu,
            functional.gelu: self._gelu,
            fusible.rms_norm: self._own_rms_norm,
            fusible.swiglu: self._swiglu,
            fusible.rotate_heads: self._rotate_heads,
            fusible.rotate_halves: self._rotate_halves,
            rotate: self._rotate,
            scaled_linear: self._scaled_linear,
        }
        if PRODUCTS_WITH_GELU:
            for operation in (ops.dense_linear._opoverload, ops.quantized_linear._opoverload):
                self._functions[operation] = partial(self._product, operation)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See TorchFunctionMode."""
        name = getattr(func, "__name__", "")
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
            for pending in self._pending:  # a tensor may change under it
                _ = pending.value
        function, kwargs = self._functions.get(func), kwargs or {}
        if func is not functional.gelu:
            args = tuple(one.value if isinstance(one, PendingProduct) else one for one in args)
        out = None if function is None else function(*args, **kwargs)
        return func(*values(args), **values(kwargs)) if out is None else out

    def _fits(self, x: Any) -> bool:
        if type(x) is not Tensor:
            return False
        return self.everywhere or (x.is_cuda and bool(available.usable(x.device.index, x.dtype)))

    def _defer(self, pending: Pending) -> Pending:
        self._pending.add(pending)
        return pending

    def _multiply(self, x: Any, y: Any, *, out: Any = None) -> Any:
        if isinstance(y, PendingActivation):
            x, y = y, x
        if out is not None or not self._fits(x.x if isinstance(x, PendingActivation) else x):
            return None
        if isinstance(x, PendingActivation) and x.computed is None:
            return self._gated(x, y)
        return self._defer(PendingSum(x, y, None, self._residuals.pop(x, None))) if isinstance(y, float) and x.dim() == 2 else None

    def _gated(self, activation: PendingActivation, up: Any) -> Tensor | None:
        gate = activation.x
        if not self._fits(up) or up.shape != gate.shape or up.dtype != gate.dtype:
            return None
        from imprint.kernels.gated import Gated

        self.fused += 1
        out: Tensor = Gated.apply(gate, up, activation.gelu)  # type: ignore[no-untyped-call]
        return out

    def _silu(self, x: Any, inplace: bool = False) -> Pending | None:  # noqa: FBT001, FBT002 - as functional.silu has it
        return self._defer(PendingActivation(x, gelu=False)) if self.gates and not inplace and self._fits(x) else None

    def _product(self, operation: Any, x: Any, *others: Any) -> Pending | None:
        x = values(x)
        if x.numel() != x.shape[-1] or torch.is_grad_enabled():
            return None
        return self._defer(PendingProduct(operation, (x, *values(others))))

    def _scaled_linear(self, x: Any, weight: ScaledWeight) -> Pending | Tensor | None:
        if not torch.is_grad_enabled():
            return None
        if isinstance(x, PendingActivation) and x.computed is None and isinstance(x.x, PendingScaledProduct) and x.x.computed is None:
            self.fused += 1
            out: Tensor = ScaledMlp.apply(x.x.x, x.x.weight, weight)  # type: ignore[no-untyped-call]
            return out
        x = values(x)
        return self._defer(PendingScaledProduct(x, weight)) if self._fits(x) else None

    def _gelu(self, x: Any, *, approximate: str = "none") -> Pending | Tensor | None:
        if isinstance(x, PendingScaledProduct) and x.computed is None:
            return self._defer(PendingActivation(x, gelu=True)) if approximate == "tanh" else None
        if isinstance(x, PendingProduct) and x.computed is None and approximate == "tanh":
            self.fused += 1
            return x.activated()
        return self._defer(PendingActivation(x, gelu=True)) if self.gates and approximate == "tanh" and self._fits(x) else None

    def _swiglu(self, joint: Any) -> Tensor | None:
        if not self._fits(joint):
            return None
        from imprint.kernels.gated import JointGated

        self.fused += 1
        out: Tensor = JointGated.apply(joint, False)  # type: ignore[no-untyped-call]
        return out

    def _add(self, x: Any, y: Any, *, alpha: Any = 1, out: Any = None) -> Pending | None:
        x, y = (one.computed if isinstance(one, Pending) and one.computed is not None else one for one in (x, y))
        if isinstance(y, PendingSum):
            x, y = y, (x.value if isinstance(x, Pending) else x)
        base = x.base if isinstance(x, PendingSum) else x
        if (
            alpha != 1
            or out is not None
            or not self._fits(base)
            or not self._fits(y)
            or not _is_hidden(base)
            or base.shape != y.shape
            or base.dtype != y.dtype
        ):
            return None
        if isinstance(x, PendingSum):
            sum_of = PendingSum(x.base, x.factor, y, x.residual) if x.other is None else PendingSum(x.value, 1.0, y)
            return self._defer(sum_of)
        return self._defer(PendingSum(x, 1.0, y, self._residuals.pop(x, None)))

    def _layer_norm(
        self, x: Any, _shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Tensor | None:
        return self._norm(x, weight, bias, eps, centred=True)

    def _rms_norm(self, x: Any, _shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor | None:
        return None if eps is None else self._norm(x, weight, None, eps, centred=False)

    def _own_rms_norm(self, x: Any, weight: Tensor, eps: float, offset: float, _compute: Any) -> Tensor | None:
        out = self._norm(x, weight, None, eps, centred=False, offset=offset)
        if out is not None:
            return out
        x = values(x)
        if not self._fits(x) or _is_trained(weight) or weight.dtype != x.dtype:
            return None
        from imprint.kernels.norms import Norm

        self.fused += 1
        normed: Tensor = Norm.apply(x, weight, None, eps, offset, False)  # type: ignore[no-untyped-call]
        return normed

    def _norm(self, x: Any, weight: Tensor | None, bias: Tensor | None, eps: float, *, centred: bool, offset: float = 0.0) -> Tensor | None:
        if not isinstance(x, PendingSum) or x.computed is not None or x.other is None:
            return None
        if weight is None or weight.dtype != x.base.dtype or any(map(_is_trained, (weight, bias))):
            return None
        from imprint.kernels.norms import AddNorm, ResidualScale, add_norm

        out: Tensor
        self.fused += 1
        if not torch.is_grad_enabled():
            x.computed, out = add_norm(x.base, x.factor, x.other, weight, bias, eps, offset, centred)
            return out
        base, before = x.residual or (x.base, None)
        later = ResidualScale()
        numbers = (eps, offset, centred, before, later)
        x.computed, out, residual = AddNorm.apply(base, x.factor, x.other, weight, bias, *numbers)  # type: ignore[no-untyped-call]
        self._residuals[out] = (residual, later)
        return out

    def _linear(self, x: Any, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
        return None if isinstance(x, Pending) else linear(x, weight, bias)

    def _rotate(self, x: Any, cos: Tensor, sin: Tensor, distance: int) -> Pending | None:
        if torch.is_grad_enabled() or not self._fits(x):
            return None
        return self._defer(PendingRotation(x, cos, sin, distance))

    def _rotate_heads(
        self, query: Any, key: Any, value: Any, cos: Tensor, sin: Tensor, distance: int
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        joint, layout = query._base, JointHeads.of((query, key, value)) if self._fits(query) else None
        if layout is None or joint is None or joint.numel() != len(query) * layout.width or not joint.is_contiguous():
            return None
        if layout.size != cos.shape[-1] or layout.size % (2 * distance) or not cos.is_contiguous() or not sin.is_contiguous():
            return None
        self.fused += 1
        found: tuple[Tensor, Tensor, Tensor] = RotateHeads.apply(joint, layout, cos, sin, distance)  # type: ignore[no-untyped-call]
        return found

    def _rotate_halves(self, query: Any, key: Any, cos: Tensor, sin: Tensor, _compute: Any) -> tuple[Tensor, Tensor] | None:
        if not (self._fits(query) and self._fits(key)) or query.dim() != 4 or len(query) != 1 or cos.dtype != query.dtype:
            return None
        from imprint.kernels.rotate import rotate as rotate_by_kernel

        if self._signed is None or self._signed[0] is not sin:
            first, second = sin[0].chunk(2, -1)
            self._signed = sin, torch.cat((-first, second), -1)
        distance, signed = query.shape[-1] // 2, self._signed[1]
        self.fused += 1
        query, key = (rotate_by_kernel(heads[0].transpose(0, 1), cos[0], signed, distance, False) for heads in (query, key))
        return query.transpose(0, 1)[None], key.transpose(0, 1)[None]


_mode: ContextVar[FusedStep | None] = ContextVar("_mode", default=None)
"""The mode of the pass of training that runs."""


@contextmanager
def fused_pass(mode: FusedStep | None) -> Iterator[None]:
    """A pass of training in this mode; None computes it as it is."""
    if mode is None:
        yield
        return
    token = _mode.set(mode)
    try:
        with mode:
            yield
    finally:
        _mode.reset(token)


def recomputation() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of activation checkpointing: the first pass of a block has the mode that is on, and so has its recomputation."""
    mode = _mode.get()
    again = None if mode is None else FusedStep(everywhere=mode.everywhere, gates=mode.gates)
    return nullcontext(), fused_pass(again)


def computed(value: Any) -> Any:
    """A tensor that was put off, computed; anything else as it is."""
    return value.value if isinstance(value, Pending) else value


def _is_hidden(x: Tensor) -> bool:
    """Whether this may be hidden states: (T, C) or (1, T, C)."""
    return x.dim() == 2 or (x.dim() == 3 and len(x) == 1)


def _is_trained(weight: Tensor | None) -> bool:
    return weight is not None and weight.requires_grad and torch.is_grad_enabled()
