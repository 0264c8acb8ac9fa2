"""Follows a computation on the meta device, where tensors have shapes and no numbers: which memory is in use, and what work is done."""

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, Literal

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
        out = func(*args, **(kwargs or {}))
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
