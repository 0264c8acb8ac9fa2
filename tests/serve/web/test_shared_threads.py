import asyncio
import threading
import time
from functools import partial

import pytest

from imprint.serve.web.shared_threads import SharedThreads


def test_a_sender_has_a_few_threads_and_leaves_the_others_to_others() -> None:
    may_end = threading.Event()

    async def flood() -> int:
        threads = SharedThreads(3, each=2)
        calls = [asyncio.create_task(threads.call("ada", may_end.wait)) for _ in range(50)]
        await asyncio.sleep(0.05)
        found = await asyncio.wait_for(threads.call("bob", lambda: 1), 5)
        may_end.set()
        assert all(await asyncio.gather(*calls))
        return found

    assert asyncio.run(flood()) == 1


def test_each_call_is_made_also_after_one_that_failed_or_was_cancelled() -> None:
    async def call() -> list[int]:
        threads = SharedThreads(1, each=1)
        with pytest.raises(ZeroDivisionError):
            await threads.call("ada", lambda: 1 // 0)
        running = asyncio.create_task(threads.call("ada", partial(time.sleep, 0.05)))
        waiting = [asyncio.create_task(threads.call("ada", partial(int, number))) for number in range(3)]
        await asyncio.sleep(0.01)
        waiting[0].cancel()
        await running
        return [await one for one in waiting[1:]]

    assert asyncio.run(call()) == [1, 2]
