"""Parses bodies: small ones at once, large ones in a thread, so that nobody's hold up all others."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from imprint.serve.web.turns import Turns

MAX_PARSED_AT_ONCE: Final = 16 << 10
"""Bytes of a body that is parsed at once, which takes a millisecond or two."""
T = TypeVar("T")


class BodyParser:
    """Parses large bodies one at a time, in turns of their senders. All of it belongs to one event loop.

    After each the thread rests for as long as it took. One that computes without a pause would hold up every other: a step of the decoder
    waits for the interpreter's lock hundreds of times.
    """

    def __init__(self) -> None:
        self.turns = Turns()
        """Who waits with a large body, or has it parsed."""
        self._thread = anyio.CapacityLimiter(1)
        self._rests_until = 0.0
        """By a monotonic clock."""

    async def parse(self, sender: str, parse: Callable[[bytes], T], body: bytes) -> T:
        """Call what parses a body, and raise what that raises."""
        if len(body) <= MAX_PARSED_AT_ONCE:
            return parse(body)
        async with self.turns.turn(sender):
            await anyio.sleep(max(0.0, self._rests_until - time.monotonic()))
            begun = time.monotonic()
            try:
                return await anyio.to_thread.run_sync(parse, body, limiter=self._thread)
            finally:
                self._rests_until = 2 * time.monotonic() - begun
