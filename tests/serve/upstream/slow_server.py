"""A server with OpenAI's API in a thread of its own, which writes at the pace that a test says."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.serve.upstream.fakes import DONE, Asked, Behaviour, FakeServer, chunk, running, whole

QUICK = "quickly"
"""The last word of a question that is answered at once."""
TOKEN = "字字字字字字字字字。"
"""What a slow answer repeats."""


def writing_every(seconds: float) -> Behaviour:
    """Write a token in so many seconds, without an end, but for questions that ask for a quick answer."""

    async def write(asked: Asked) -> None:
        question = asked.body["prompt"] if "prompt" in asked.body else asked.body["messages"][-1]["content"]
        if question.endswith(QUICK):
            await asked.stream(*whole())
            return
        await asked.stream(chunk(tokens=0))
        number = 0
        while not asked.closed.is_set() and number < asked.body.get("max_tokens", 10**6):
            number += 1
            await asked.send(chunk(TOKEN, tokens=number))
            await asyncio.sleep(seconds)
        await asked.send(chunk(reason="length", tokens=number) + DONE)

    return write


@contextmanager
def slow_server(seconds: float) -> Iterator[str]:
    """The address of a server that takes so many seconds for each token."""
    server = FakeServer(models={"demo": 2**17}, counts=False, answer=writing_every(seconds))
    started, over = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with running(server):
            started.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    started.wait()
    try:
        yield server.url
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(10)
        loop.close()
