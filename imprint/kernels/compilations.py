"""Counts the Triton kernels that a process compiles, so that a run can say that they are few."""

from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass
class Compilations:
    """The kernels of this process, each for one set of types, constants and options."""

    compiled: int = 0
    """Those that were compiled."""
    read: int = 0
    """Those that Triton had in its cache on disk."""

    def __call__(self, *, cache_hit: bool, **_details: object) -> None:
        """Triton tells of a kernel: see its CompilationListener."""
        if cache_hit:
            self.read += 1
        else:
            self.compiled += 1


@cache
def compilations() -> Compilations:
    """Those of this process."""
    return Compilations()


def listen(triton: Any) -> None:
    """Let Triton tell of each kernel, if this version can and nobody else listens."""
    knobs: Any = getattr(getattr(triton, "knobs", None), "compilation", None)
    if knobs is not None and getattr(knobs, "listener", compilations) is None:
        knobs.listener = compilations()
