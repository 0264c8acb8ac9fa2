"""Turns of those who wait for one thing, round robin over their senders: networks, or accounts, in bounded room."""

from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio


@dataclass(eq=False)
class Waiter:
    """One that waits."""

    ended: anyio.Event = field(default_factory=anyio.Event)
    has_turn: bool = False


class Turns:
    """One has the turn at a time; the senders of those who wait take turns, and those of one go in the order in which they came.

    All of it belongs to one event loop.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Waiter]] = OrderedDict()
        """Those who wait of each sender; the first sender is next."""
        self._is_taken = False

    def __len__(self) -> int:
        """How many wait, or have the turn."""
        return self._is_taken + sum(map(len, self._waiting.values()))

    def make_place(self, sender: str, most: int) -> bool:
        """Whether one more of a sender may wait among at most so many.

        Where they are that many already, the last of the sender that has most waiting gives its place to one of a sender that has fewer.
        """
        if len(self) < most:
            return True
        largest = max(self._waiting.values(), key=len, default=deque())
        if len(self._waiting.get(sender, ())) + 1 >= len(largest):
            return False
        self._end(next(name for name, waiting in self._waiting.items() if waiting is largest), largest[-1], has_turn=False)
        return True

    @asynccontextmanager
    async def turn(self, sender: str) -> AsyncIterator[bool]:
        """Wait for the turn, and have it; False where the place was given to another sender, and there is no turn."""
        has_turn = not self._is_taken or await self._has_waited(sender)
        self._is_taken = self._is_taken or has_turn
        try:
            yield has_turn
        finally:
            if has_turn:
                self._pass_on()

    async def _has_waited(self, sender: str) -> bool:
        mine = Waiter()
        self._waiting.setdefault(sender, deque()).append(mine)
        try:
            await mine.ended.wait()
        except BaseException:  # cancelled: whoever asked has gone
            if mine.has_turn:
                self._pass_on()
            elif not mine.ended.is_set():
                self._remove(sender, mine)
            raise
        return mine.has_turn

    def _pass_on(self) -> None:
        """Give the turn to the next sender, which comes behind the others after it."""
        self._is_taken = bool(self._waiting)
        if self._waiting:
            sender = next(iter(self._waiting))
            self._waiting.move_to_end(sender)
            self._end(sender, self._waiting[sender][0], has_turn=True)

    def _end(self, sender: str, one: Waiter, *, has_turn: bool) -> None:
        """End the waiting of one."""
        self._remove(sender, one)
        one.has_turn = has_turn
        one.ended.set()

    def _remove(self, sender: str, one: Waiter) -> None:
        self._waiting[sender].remove(one)
        if not self._waiting[sender]:
            del self._waiting[sender]
