"""Follows a computation on the meta device, where tensors have shapes and no numbers: which memory is in use, and what work is done."""

import weakref
from collections import Counter
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ALLOCATION_BYTES: Final = 512
"""PyTorch's allocator rounds each tensor on a GPU up to a multiple of this."""
PRODUCTS: Final = frozenset({"mm", "addmm", "bmm", "baddbmm"})
FP8_PRODUCT: Final = "_scaled_mm"
FP8_SPEED: Final = 1.65
"""How much faster it is than a product in 16 bits: 52.0 against 31.6 ms for all linears of a step of ChatGLM-6B on an H200."""
NO_KERNEL: Final = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "detach", "alias", "lift_fresh"})
"""Operations that compute nothing."""

Phase = Literal["forward", "head", "backward", "end"]
"""The blocks; the LM head and the loss; the backward pass; that of the first block and of what feeds all blocks."""
PHASES: Final[tuple[Phase, ...]] = ("forward", "head", "backward", "end")
Owner = Phase | Literal["gradient"]
"""The phase in which memory was allocated; or the gradient of a parameter."""
InUse = Counter[Owner]
"""Bytes in use, by owner."""
Kernel = tuple[int, int]
"""Multiplications and additions of a matrix product, 0 of any other kernel; bytes read and written."""


class Shape(NamedTuple):
    """All that an operation on the meta device knows of a tensor."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Fixed(NamedTuple):
    """An argument that is no tensor; its type too, since 1, 1.0 and True are equal and promote a dtype differently."""

    kind: type
    value: Any


class Trace(TorchDispatchMode):
    """While it is entered: memory in use, its peak in each phase, and the work."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.phase: Phase = "forward"
        """Set by the caller as the computation goes on."""
        self.in_use: InUse = Counter()
        self.peaks: dict[Phase, InUse] = {}
        """What was in use when most was in use, in each phase."""
        self.kernels: Counter[Kernel] = Counter()
        """How many kernels of each kind there were."""
        self._owners: dict[int, tuple[int, Owner | None]] = {}

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Do not count these tensors, which are there before."""
        for tensor in tensors:
            self._owners[tensor.untyped_storage()._cdata] = (0, None)

    def enter(self, phase: Phase) -> None:
        """Begin a phase."""
        self.phase = phase
        self._note_peak()

    def count_gradient(self, parameter: Tensor) -> None:
        """Count the gradient of a parameter as such from now on."""
        assert parameter.grad is not None
        self._allocate(parameter.grad, "gradient")
        key = parameter.grad.untyped_storage()._cdata
        size, owner = self._owners[key]
        if owner is not None:
            self.in_use[owner] -= size
            self.in_use["gradient"] += size
            self._owners[key] = (size, "gradient")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every operation."""
        out = compute(func, args, kwargs or {})
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        new = [self._allocate(result, self.phase) for result in results]
        name = func.overloadpacket.__name__
        if (any(new) or func._schema.is_mutable) and name not in NO_KERNEL:
            given = {name: value for name, value in (kwargs or {}).items() if name != "out"}  # that is among the results
            inputs = [leaf for leaf in tree_leaves((args, given)) if isinstance(leaf, Tensor)]
            moved = sum(tensor.numel() * tensor.element_size() for tensor in (*inputs, *results))
            self.kernels[_operations(name, inputs), moved] += 1
        return out

    def _allocate(self, tensor: Tensor, owner: Owner) -> bool:
        """Count the memory of a tensor unless it is counted; returns whether it is new."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._owners:
            return False
        size = -(-storage.nbytes() // ALLOCATION_BYTES) * ALLOCATION_BYTES
        self._owners[key] = (size, owner)
        weakref.finalize(storage, self._free, key).atexit = False
        self.in_use[owner] += size
        self._note_peak()
        return True

    def _free(self, key: int) -> None:
        size, owner = self._owners.pop(key)
        if owner is not None:
            self.in_use[owner] -= size

    def _note_peak(self) -> None:
        if self.phase not in self.peaks or self.in_use.total() > self.peaks[self.phase].total():
            self.peaks[self.phase] = self.in_use.copy()


def _operations(name: str, inputs: list[Tensor]) -> int:
    """Multiplications and additions of a matrix product, of FP8 as many as take so long in 16 bits; 0 of anything else."""
    if name == FP8_PRODUCT:
        return int(2 * inputs[0].numel() * inputs[1].shape[-1] / FP8_SPEED)
    if name not in PRODUCTS:
        return 0
    first, second = inputs[-2:] if name in ("mm", "bmm") and len(inputs) == 2 else (inputs[-2], inputs[-1])
    return 2 * first.numel() * second.shape[-1]


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What an operation gives on the meta device. Blocks and rows repeat each other's, and PyTorch takes long to find a shape."""
    if not _gives_new_tensors(func):
        return func(*args, **kwargs)
    shapes = _shapes(func, _described(args), tuple((name, _described(value)) for name, value in kwargs.items()))
    if shapes is None:
        return func(*args, **kwargs)
    return _stand_in(shapes) if isinstance(shapes, Shape) else tuple(map(_stand_in, shapes))


@cache
def _gives_new_tensors(func: Any) -> bool:
    """Whether an operation says that it neither changes what it is given nor gives a view of it."""
    return all(one.alias_info is None for one in (*func._schema.arguments, *func._schema.returns))


@lru_cache(maxsize=10_000)
def _shapes(func: Any, args: Any, kwargs: Any) -> Shape | tuple[Shape, ...] | None:
    """The shapes of all that an operation gives; None where that is more than new tensors of these shapes."""
    given = [_stand_in(one) for one in args], {name: _stand_in(one) for name, one in kwargs}
    inputs = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
    if not all(one.is_meta for one in inputs):  # stand-ins on a real device hold numbers that nobody wrote, such as ids that are too large
        return None
    out = func(*given[0], **given[1])
    results = out if isinstance(out, tuple) else (out,)
    if not all(isinstance(one, Tensor) and one.is_meta for one in results):
        return None
    if len({one.untyped_storage()._cdata for one in (*inputs, *results)}) < len(inputs) + len(results):
        return None
    shapes = _described(results)
    if any(
        _stand_in(shape).untyped_storage().nbytes() != one.untyped_storage().nbytes() for shape, one in zip(shapes, results, strict=True)
    ):
        return None
    return tuple(shapes) if isinstance(out, tuple) else Shape(*shapes[0])


def _described(value: Any) -> Any:
    """What an operation knows of an argument, as a key."""
    if isinstance(value, Tensor):
        return Shape(value.shape, value.stride(), value.dtype, value.device)
    return tuple(map(_described, value)) if isinstance(value, list | tuple) else Fixed(type(value), value)


def _stand_in(described: Any) -> Any:
    """An argument like the one that was described."""
    if isinstance(described, Shape):
        return torch.empty_strided(described.size, described.stride, dtype=described.dtype, device=described.device)
    return described.value if isinstance(described, Fixed) else [_stand_in(one) for one in described]
