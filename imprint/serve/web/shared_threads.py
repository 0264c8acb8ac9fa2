"""Threads that many senders share: accounts, or addresses."""

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from imprint.serve.web.slots import counted

T = TypeVar("T")


class SharedThreads:
    """Threads of which each sender has, or waits for, a few at a time; what else it sends waits behind these.

    So whoever sends without a pause holds up itself, and others by so many calls. All of it belongs to one event loop.
    """

    def __init__(self, threads: int, each: int) -> None:
        """`threads`: how many there are; `each`: for how many of them a sender waits at a time."""
        self._threads = anyio.CapacityLimiter(threads)
        self._each = each
        self._counts: Counter[str] = Counter()
        """Sender -> how many calls of it are here."""
        self._limiters: dict[str, anyio.CapacityLimiter] = {}
        """The same senders -> which of these calls may wait for a thread."""

    async def call(self, sender: str, function: Callable[[], T]) -> T:
        """What a function returns that is called in a thread; raises what it raises."""
        limiter = self._limiters.setdefault(sender, anyio.CapacityLimiter(self._each))
        try:
            with counted(self._counts, sender):
                async with limiter:
                    return await anyio.to_thread.run_sync(function, limiter=self._threads)
        finally:
            if sender not in self._counts:
                del self._limiters[sender]
