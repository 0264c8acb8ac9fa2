import asyncio
import threading
import time
from itertools import pairwise

import anyio

from imprint.serve.web.body_parser import MAX_PARSED_AT_ONCE, BodyParser

LARGE = MAX_PARSED_AT_ONCE + 1


def test_a_small_body_is_parsed_at_once_and_a_large_one_in_another_thread() -> None:
    async def parse() -> list[bool]:
        parser, here = BodyParser(), threading.get_ident()
        return [await parser.parse("ada", lambda _: threading.get_ident() == here, b"x" * size) for size in (LARGE - 1, LARGE)]

    assert asyncio.run(parse()) == [True, False]


def test_after_a_large_body_the_thread_rests_for_as_long_as_it_took() -> None:
    times = list[tuple[float, float]]()

    def parse(_: bytes) -> None:
        begun = time.monotonic()
        time.sleep(0.05)
        times.append((begun, time.monotonic()))

    async def flood() -> None:
        parser = BodyParser()
        await asyncio.gather(*(parser.parse("ada", parse, b"x" * LARGE) for _ in range(4)))

    asyncio.run(flood())
    assert len(times) == 4
    assert all(later[0] - one[1] > 0.9 * (one[1] - one[0]) for one, later in pairwise(times))


def test_who_leaves_keeps_no_turn_and_no_second_body_is_parsed_beside_one_that_was_left() -> None:
    parsing, may_end, order = threading.Event(), threading.Event(), list[bytes]()

    def parse(body: bytes) -> None:
        parsing.set()
        may_end.wait(20)
        order.append(body[:1])

    async def leave() -> int:
        parser, scopes = BodyParser(), [anyio.CancelScope() for _ in range(3)]

        async def send(letter: bytes, scope: anyio.CancelScope) -> None:
            with scope:
                await parser.parse("ada", parse, letter * LARGE)

        async with anyio.create_task_group() as tasks:
            for letter, scope in zip((b"a", b"b", b"c"), scopes, strict=True):
                tasks.start_soon(send, letter, scope)
            while not parsing.is_set():
                await asyncio.sleep(0.002)
            for scope in scopes[:2]:
                scope.cancel()
            await asyncio.sleep(0.05)
            try:
                assert (len(parser.turns), order) == (2, [])  # the thread goes on, and has the turn until it ends
            finally:
                may_end.set()
        return len(parser.turns)

    assert (asyncio.run(leave()), order) == (0, [b"a", b"c"])
