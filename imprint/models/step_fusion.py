"""Computes a decoding step with fewer kernels than the network's own lines have, while it is captured: those lines stay as they are.

Inside the mode, a sum of hidden states is put off until the norm behind it, so that one kernel computes both, and the weight in a product
of one token is read from memory at full speed. Legend: T tokens, C hidden size.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from imprint.kernels import available
from imprint.quant.dense import linear


class LazySum:
    """base * factor + other, not computed yet; everything but a norm computes it."""

    def __init__(self, base: Tensor, factor: float, other: Tensor | None) -> None:
        self.base = base
        self.factor = factor
        self.other = other
        self.computed: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """The sum, (T, C)."""
        if self.computed is None:
            with torch._C.DisableTorchFunction():
                scaled = self.base if self.factor == 1 else self.base * self.factor
                self.computed = scaled if self.other is None else scaled + self.other
        return self.computed

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*_values(args), **_values(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.value, name)

    def __add__(self, other: Any) -> Any:
        return torch.add(self, other)  # type: ignore[call-overload]

    __radd__ = __add__

    def __mul__(self, other: Any) -> Any:
        return self.value * other

    __rmul__ = __mul__

    def __getitem__(self, index: Any) -> Tensor:
        return self.value[index]

    def __len__(self) -> int:
        return len(self.value)


class FusedStep(TorchFunctionMode):
    """The mode. `everywhere`: on any device and in any dtype, as in Triton's interpreter."""

    def __init__(self, *, everywhere: bool = False) -> None:
        super().__init__()
        self.everywhere = everywhere
        self.fused = 0
        """Number of operations that were computed in another way."""
        self._sums: WeakSet[LazySum] = WeakSet()
        self._functions: Mapping[Any, Callable[..., Any]] = {
            torch.Tensor.mul: self._scale,
            torch.Tensor.add: self._add,
            torch.add: self._add,
            functional.layer_norm: self._layer_norm,
            functional.rms_norm: self._rms_norm,
            functional.linear: self._linear,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See TorchFunctionMode."""
        name = getattr(func, "__name__", "")
        if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
            for pending in self._sums:  # a tensor may change under it
                _ = pending.value
        function, kwargs = self._functions.get(func), kwargs or {}
        out = None if function is None else function(*args, **kwargs)
        return func(*_values(args), **_values(kwargs)) if out is None else out

    def _fits(self, x: Any) -> bool:
        if type(x) is not Tensor:
            return False
        return self.everywhere or (x.is_cuda and bool(available.usable(x.device.index, x.dtype)))

    def _pending(self, base: Tensor, factor: float, other: Tensor | None) -> LazySum:
        pending = LazySum(base, factor, other)
        self._sums.add(pending)
        return pending

    def _scale(self, x: Any, factor: Any) -> LazySum | None:
        return self._pending(x, factor, None) if isinstance(factor, float) and self._fits(x) and x.dim() == 2 else None

    def _add(self, x: Any, y: Any, *, alpha: Any = 1, out: Any = None) -> LazySum | None:
        x, y = (one.computed if isinstance(one, LazySum) and one.computed is not None else one for one in (x, y))
        if isinstance(y, LazySum):
            x, y = y, x
        base = x.base if isinstance(x, LazySum) else x
        if (
            alpha != 1
            or out is not None
            or not self._fits(base)
            or not self._fits(y)
            or base.dim() != 2
            or base.shape != y.shape
            or base.dtype != y.dtype
        ):
            return None
        if isinstance(x, LazySum):
            return self._pending(x.base, x.factor, y) if x.other is None else self._pending(x.value, 1.0, y)
        return self._pending(x, 1.0, y)

    def _layer_norm(
        self, x: Any, _shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Tensor | None:
        return self._norm(x, weight, bias, eps, centred=True)

    def _rms_norm(self, x: Any, _shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor | None:
        return None if eps is None else self._norm(x, weight, None, eps, centred=False)

    def _norm(self, x: Any, weight: Tensor | None, bias: Tensor | None, eps: float, *, centred: bool) -> Tensor | None:
        if not isinstance(x, LazySum) or x.computed is not None or x.other is None or weight is None:
            return None
        from imprint.kernels import fused

        self.fused += 1
        x.computed, out = fused.add_norm(x.base, x.factor, x.other, weight, bias, eps, centred=centred)
        return out

    def _linear(self, x: Any, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
        return None if isinstance(x, LazySum) else linear(x, weight, bias)


def _values(inputs: Any) -> Any:
    """Arguments with every sum computed."""
    if isinstance(inputs, LazySum):
        return inputs.value
    if isinstance(inputs, Mapping):
        return {name: _values(value) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list) and _holds_sum(inputs):
        return type(inputs)(_values(value) for value in inputs)
    return inputs


def _holds_sum(inputs: Iterable[Any]) -> bool:
    return any(isinstance(value, LazySum) or (isinstance(value, tuple | list) and _holds_sum(value)) for value in inputs)
