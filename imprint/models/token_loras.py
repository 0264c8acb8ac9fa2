"""Tells the LoRAs that are mounted on a network which tokens of the running forward pass use them.

A linear sees hidden states only, so what belongs to each token is kept here for the length of the pass. Legend: T packed tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

from imprint.models.attention import NO_ADAPTER, RowAdapters

_CURRENT: ContextVar[Tensor | int | None] = ContextVar("_CURRENT", default=None)
"""What the forward pass of this thread uses; no pass runs inside another."""


class TokenLoras:
    """The adapter id of the LoRA of each token; each thread that runs the network has its own."""

    def __init__(self) -> None:
        self.default = NO_ADAPTER
        """The LoRA of a forward pass that names none."""

    @property
    def current(self) -> Tensor | int:
        """(T, 1), or one id for all tokens."""
        current = _CURRENT.get()
        return self.default if current is None else current

    @contextmanager
    def use(self, adapters: RowAdapters, seq_ids: Tensor) -> Iterator[None]:
        """Inside this block every token has the LoRA of its sequence; `seq_ids` (T,)."""
        loras = adapters.loras
        previous = _CURRENT.set(loras[seq_ids][:, None] if isinstance(loras, Tensor) else loras)
        try:
            yield
        finally:
            _CURRENT.reset(previous)

    @contextmanager
    def with_default(self, adapter_id: int) -> Iterator[None]:
        """Inside this block a forward pass that names no LoRA uses this one."""
        previous, self.default = self.default, adapter_id
        try:
            yield
        finally:
            self.default = previous
