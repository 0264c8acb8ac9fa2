import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from imprint.messages import Bilingual
from imprint.serve.store.errors import StoreError
from imprint.serve.web.store_batcher import StoreBatcher
from tests.serve.stores import HOME, open_store, user
from tests.serve.web.scripted import ScriptedStore


class CountingStore(ScriptedStore):
    """Takes a moment for each transaction."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def batch(self, calls: Sequence[Callable[[], Any]], *, writes: bool) -> list[Any]:
        self.sizes.append(len(calls))
        time.sleep(0.05)
        return super().batch(calls, writes=writes)


def test_calls_that_come_meanwhile_are_made_together() -> None:
    store, threads = CountingStore(), set()

    def name(number: int) -> int:
        threads.add(threading.current_thread())
        return number

    async def main() -> list[int]:
        batcher = StoreBatcher(store.as_store(), writes=False)
        first = asyncio.create_task(batcher.call(partial(name, 0)))
        await asyncio.sleep(0.01)
        return list(await asyncio.gather(first, *(batcher.call(partial(name, number)) for number in range(1, 20))))

    assert asyncio.run(main()) == list(range(20))
    assert store.sizes == [1, 19]
    assert threading.main_thread() not in threads


def test_an_error_reaches_the_one_who_asked_alone() -> None:
    def fail() -> None:
        raise StoreError("conflict", Bilingual("No.", "否。"))

    async def main() -> list[Any]:
        batcher = StoreBatcher(ScriptedStore().as_store(), writes=True)
        return list(await asyncio.gather(batcher.call(lambda: 1), batcher.call(fail), batcher.call(lambda: 2), return_exceptions=True))

    one, error, two = asyncio.run(main())
    assert (one, two) == (1, 2)
    assert isinstance(error, StoreError)


def test_who_waits_no_longer_holds_up_nobody() -> None:
    store = CountingStore()

    async def main() -> int:
        batcher = StoreBatcher(store.as_store(), writes=True)
        left = asyncio.create_task(batcher.call(lambda: 1))
        await asyncio.sleep(0.01)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        return await batcher.call(lambda: 2)

    assert asyncio.run(main()) == 2


def test_of_many_reservations_at_once_those_that_fit_are_kept(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        principal = user(store, tokens_a_day=100)

        async def main() -> list[Any]:
            batcher = StoreBatcher(store, writes=True)
            calls = [batcher.call(partial(store.quota.reserve, principal, HOME, 30)) for _ in range(6)]
            return list(await asyncio.gather(*calls, return_exceptions=True))

        told = asyncio.run(main())
        assert sum(isinstance(one, StoreError) and one.kind == "quota_exceeded" for one in told) == 3
        assert store.quota.usage(principal, HOME).remaining == 10
