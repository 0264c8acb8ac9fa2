"""Whether somebody may still have what was asked for: asked again in the very transaction that does it, as requests wait before it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

FRESH_SECONDS: Final = 0.2
"""What only reads asks again when the permission is older, in seconds: what was not kept waiting costs nothing more."""


@dataclass(frozen=True)
class Permission:
    """What a request may do, as it was found when it came."""

    demand: Callable[[], None]
    """Raises an error if it may not any more."""
    found_at: float = field(default_factory=time.monotonic)
    """When it was found, in seconds of a monotonic clock."""


_PERMISSION: Final[ContextVar[Permission | None]] = ContextVar("permission", default=None)
"""Of what this task or thread does now; None: it asks nobody. Threads that a task starts have that of the task."""


@contextmanager
def permitted_by(permission: Permission | None) -> Iterator[None]:
    """Do what the block does under this permission: all its transactions ask for it. None: it needs none."""
    token = _PERMISSION.set(permission)
    try:
        yield
    finally:
        _PERMISSION.reset(token)


def permission_to_ask(*, writes: bool) -> Permission | None:
    """The permission that a transaction which begins now has to ask for; None if it need not."""
    permission = _PERMISSION.get()
    if permission is None or writes:
        return permission
    return permission if time.monotonic() - permission.found_at > FRESH_SECONDS else None
