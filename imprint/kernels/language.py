"""Triton where it is installed. Without it, modules of kernels can be imported, but no kernel can be launched."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from imprint.kernels.compilations import listen


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


tl = _module("triton.language")
"""Triton's language; None without Triton."""
triton = tl and _module("triton")
"""Triton; None where it is not installed."""
listen(triton)


def jit(*, unaligned: Sequence[str] = (), varying: Sequence[str] = ()) -> Callable[[Any], Any]:
    """Makes a function a kernel; without Triton it stays a function that nobody calls.

    Of an `unaligned` pointer a thread reads one element at a time, so neighbouring threads hold neighbouring elements.
    A `varying` integer is compiled for once, not again for multiples of 16.
    """
    if triton is None:
        return lambda function: function
    decorate: Callable[[Any], Any] = triton.jit(do_not_specialize_on_alignment=list(unaligned), do_not_specialize=list(varying))
    return decorate


def descriptor(tensor: Any, block: Sequence[int]) -> Any:
    """A tensor of two axes of which a kernel loads blocks, copied by a unit of the card (TMA, from compute capability 9.0)."""
    return import_module("triton.tools.tensor_descriptor").TensorDescriptor.from_tensor(tensor, list(block))


def constant(value: int | str) -> Any:
    """A value that kernels may use from outside themselves."""
    return value if tl is None else tl.constexpr(value)
