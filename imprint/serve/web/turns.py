"""Turns of those who wait for one thing, round robin over the networks they come from, in bounded room."""

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
    """One has the turn at a time; the networks of those who wait take turns, and those of one network go in the order in which they came.

    All of it belongs to one event loop.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Waiter]] = OrderedDict()
        """Those who wait of each network; the first network is next."""
        self._is_taken = False

    def __len__(self) -> int:
        """How many wait, or have the turn."""
        return self._is_taken + sum(map(len, self._waiting.values()))

    def make_place(self, network: str, most: int) -> bool:
        """Whether one more of a network may wait among at most so many.

        Where they are that many already, the last of the network that has most waiting gives its place to one of a network that has fewer.
        """
        if len(self) < most:
            return True
        largest = max(self._waiting.values(), key=len, default=deque())
        if len(self._waiting.get(network, ())) + 1 >= len(largest):
            return False
        self._end(next(name for name, waiting in self._waiting.items() if waiting is largest), largest[-1], has_turn=False)
        return True

    @asynccontextmanager
    async def turn(self, network: str) -> AsyncIterator[bool]:
        """Wait for the turn, and have it; False where the place was given to another network, and there is no turn."""
        has_turn = not self._is_taken or await self._has_waited(network)
        self._is_taken = self._is_taken or has_turn
        try:
            yield has_turn
        finally:
            if has_turn:
                self._pass_on()

    async def _has_waited(self, network: str) -> bool:
        mine = Waiter()
        self._waiting.setdefault(network, deque()).append(mine)
        try:
            await mine.ended.wait()
        except BaseException:  # cancelled: whoever asked has gone
            if mine.has_turn:
                self._pass_on()
            elif not mine.ended.is_set():
                self._remove(network, mine)
            raise
        return mine.has_turn

    def _pass_on(self) -> None:
        """Give the turn to the next network, which comes behind the others after it."""
        self._is_taken = bool(self._waiting)
        if self._waiting:
            network = next(iter(self._waiting))
            self._waiting.move_to_end(network)
            self._end(network, self._waiting[network][0], has_turn=True)

    def _end(self, network: str, one: Waiter, *, has_turn: bool) -> None:
        """End the waiting of one."""
        self._remove(network, one)
        one.has_turn = has_turn
        one.ended.set()

    def _remove(self, network: str, one: Waiter) -> None:
        self._waiting[network].remove(one)
        if not self._waiting[network]:
            del self._waiting[network]
