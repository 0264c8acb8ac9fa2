import asyncio
import time

import pytest

from imprint.serve.upstream.client import Client, Timeouts
from imprint.serve.upstream.faults import FaultError
from tests.serve.upstream.fakes import Asked, FakeServer, running


def ask(server: FakeServer) -> object:
    async def run() -> object:
        async with running(server):
            client = Client(None, Timeouts())
            try:
                return await client.ask(f"{server.url}/v1/models")
            finally:
                await client.close()

    return asyncio.run(run())


@pytest.mark.parametrize("line", [b"", b"a: b\r\n"])
def test_answers_that_are_none_without_an_end_are_left(line: bytes) -> None:
    async def endless(asked: Asked) -> None:
        while not asked.closed.is_set():
            await asked.send((b"HTTP/1.1 103 Early\r\n" + line + b"\r\n") * 1000)
            await asyncio.sleep(0)

    begun = time.monotonic()
    with pytest.raises(FaultError, match="oversized"):
        ask(FakeServer(listed=endless))
    assert time.monotonic() - begun < 5


def test_a_few_of_them_and_a_long_answer_are_read() -> None:
    async def early(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 103 Early\r\nLink: <x>\r\n\r\n" * 10)
        await asked.reply(200, ["x" * 200_000])

    assert ask(FakeServer(listed=early)) == ["x" * 200_000]
