"""Tensors that are not computed yet: a later operation may compute several of them together."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


class Pending:
    """A tensor that is not computed yet; everything but what may fuse it computes it."""

    def __init__(self) -> None:
        self.computed: Tensor | None = None

    @property
    def value(self) -> Tensor:
        """The tensor."""
        if self.computed is None:
            with torch._C.DisableTorchFunction():
                self.computed = self._compute()
        return self.computed

    def _compute(self) -> Tensor:
        raise NotImplementedError

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*values(args), **values(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.value, name)

    def __add__(self, other: Any) -> Any:
        return torch.add(self, other)  # type: ignore[call-overload]

    __radd__ = __add__

    def __mul__(self, other: Any) -> Any:
        return torch.mul(self, other)  # type: ignore[arg-type]

    __rmul__ = __mul__

    def __getitem__(self, index: Any) -> Tensor:
        return self.value[index]

    def __len__(self) -> int:
        return len(self.value)


def _operator(name: str) -> Callable[..., Any]:
    """A method for an operator, which Python looks for in the class: that of the tensor."""

    def operate(pending: Pending, *others: Any) -> Any:
        return getattr(pending.value, name)(*values(others))

    return operate


for _name in ("sub", "rsub", "truediv", "rtruediv", "floordiv", "mod", "pow", "rpow", "matmul", "neg", "abs", "lt", "le", "gt", "ge"):
    setattr(Pending, f"__{_name}__", _operator(f"__{_name}__"))


def values(inputs: Any) -> Any:
    """Arguments with everything computed that was put off."""
    if isinstance(inputs, Pending):
        return inputs.value
    if isinstance(inputs, Mapping):
        return {name: values(value) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list) and _holds_pending(inputs):
        return type(inputs)(values(value) for value in inputs)
    return inputs


def _holds_pending(inputs: Iterable[Any]) -> bool:
    return any(isinstance(value, Pending) or (isinstance(value, tuple | list) and _holds_pending(value)) for value in inputs)
