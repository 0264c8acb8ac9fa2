import asyncio
import json
from collections.abc import AsyncGenerator

from starlette.types import Message

from imprint.serve.web.sse import EventStream, comment, data_event


def test_an_event_is_one_line_of_json() -> None:
    assert data_event({"a": "钢\n\n"}) == 'data: {"a":"钢\\n\\n"}\n\n'.encode()
    assert comment("queue 3") == b": queue 3\n\n"
    assert json.loads(data_event({"a": 1})[6:]) == {"a": 1}


def streamed(seconds: float, *, leaves_after: float = 60) -> tuple[list[bytes], list[str]]:
    sent: list[bytes] = []
    told: list[str] = []

    async def events() -> AsyncGenerator[bytes]:
        try:
            yield b"data: 1\n\n"
            for _ in range(round(seconds / 0.01)):
                if "left" in told:
                    return
                await asyncio.sleep(0.01)
            yield b"data: 2\n\n"
        finally:
            told.append("closed")

    async def receive() -> Message:
        await asyncio.sleep(leaves_after)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message.get("body", b"") if message["type"] == "http.response.body" else b"start")

    async def stream() -> None:
        response = EventStream(events(), lambda: told.append("left"))
        response.keep_alive_seconds = 0.05
        await response({"type": "http", "state": {}}, receive, send)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(stream())
    return sent, told


def test_silence_is_filled_with_comments() -> None:
    sent, told = streamed(0.13)
    assert [part for part in sent if not part.startswith(b":")] == [b"start", b"data: 1\n\n", b"data: 2\n\n", b""]
    assert sent.count(b": alive\n\n") in {1, 2, 3}
    assert "closed" in told


def test_a_client_that_leaves_ends_the_events() -> None:
    sent, told = streamed(5, leaves_after=0.03)
    assert b"data: 2\n\n" not in sent
    assert told[:2] == ["left", "closed"]
