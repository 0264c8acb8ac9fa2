import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

import pytest

from imprint.serve.upstream.client import MAX_BODY_BYTES, MAX_EVENT_BYTES, Client, Timeouts, event_texts
from imprint.serve.upstream.faults import FaultError
from tests.serve.upstream.fakes import DONE, QUICK, Asked, FakeServer, running


def texts_of(*chunks: bytes) -> list[str]:
    async def given() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def run() -> list[str]:
        return [text async for text in event_texts(given())]

    return asyncio.run(run())


def fault_of(*chunks: bytes) -> str:
    with pytest.raises(FaultError) as caught:
        texts_of(*chunks)
    return caught.value.name


STREAM = "data: 一\n\n: comment\r\nevent: x\r\ndata:two\r\ndata: lines\r\n\r\n\n\ndata: [DONE]\n\n".encode()


def test_events_are_read_wherever_the_network_cuts_them() -> None:
    rng = random.Random(0)
    for _ in range(200):
        places = sorted(rng.sample(range(len(STREAM)), rng.randint(0, 8)))
        parts = [STREAM[start:end] for start, end in zip([0, *places], [*places, len(STREAM)], strict=True)]
        assert texts_of(*parts) == ["一", "two\nlines", "[DONE]"]


def test_what_is_too_long_or_cut_or_no_text_is_a_fault() -> None:
    assert fault_of(b"data: 1") == "connection_lost"
    assert fault_of(b"data: 1\n") == "connection_lost"
    assert fault_of(b"data: \xff\n\n") == "invalid_response"
    assert fault_of(b"x" * MAX_EVENT_BYTES, b"x") == "oversized"
    assert fault_of(b"data: " + b"x" * MAX_EVENT_BYTES + b"\n\n") == "oversized"
    assert fault_of(*[b"data: " + b"x" * 1000 + b"\n"] * 1100) == "oversized"
    assert texts_of(b": " + b"x" * 1000 + b"\n", *[b": ping\n\n"] * 10) == []


def test_a_stream_that_says_nothing_without_an_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imprint.serve.upstream.client.MAX_EVENT_BYTES", 4096)
    for nothing in (b"\n", b"\r\n", b":\n", b"id: 1\n", b": alive\n\n"):
        much = nothing * (2048 // len(nothing))
        assert fault_of(*[much] * 5) == "oversized"
        assert fault_of(b"data: 1\n\n", *[much] * 5) == "oversized"
        assert texts_of(*[much, b"data: 1\n\n"] * 5) == ["1"] * 5


@pytest.mark.parametrize("chunks", [[b"x"] * 20_000, [b"\n" * 20_000], [b"data: 1\n\n" * 10_000]], ids=["bytes", "empty lines", "events"])
def test_others_have_their_turn_while_much_of_a_stream_is_there_at_once(chunks: list[bytes]) -> None:
    turns = 0

    async def given() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def run() -> None:
        beside = asyncio.create_task(other())
        with suppress(FaultError):
            async for _text in event_texts(given()):
                pass
        beside.cancel()

    asyncio.run(run())
    assert turns > 70


def ask_of(server: FakeServer, path: str = "/v1/models", timeouts: Timeouts = QUICK) -> object:
    async def run() -> object:
        async with running(server):
            made = Client(None, timeouts)
            try:
                return await made.ask(server.url + path)
            finally:
                await made.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b'{"count": 5, "x": [' + b"[]," * 300_000 + b"[]]}", "oversized"),
        (b'{"count": 5, "x": [' + b"1," * 300_000 + b"1]}", "oversized"),
        (b'{"count": 5, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "invalid_response"),
    ],
)
def test_a_short_answer_has_no_more_values_than_a_prompt_has_tokens(body: bytes, fault: str) -> None:
    async def many(asked: Asked) -> None:
        await asked.reply(200, body)

    with pytest.raises(FaultError, match=fault):
        ask_of(FakeServer(listed=many), timeouts=Timeouts())


def test_the_ids_of_a_long_prompt_are_read() -> None:
    ids = {"count": 200_000, "tokens": list(range(100_000, 300_000))}

    async def long(asked: Asked) -> None:
        await asked.reply(200, ids)

    assert ask_of(FakeServer(listed=long), timeouts=Timeouts()) == ids


def test_an_answer_in_very_many_small_pieces_is_left() -> None:
    async def small(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 3000 + b"2\r\n{}\r\n0\r\n\r\n")

    with pytest.raises(FaultError, match="oversized"):
        ask_of(FakeServer(listed=small), timeouts=Timeouts())


@pytest.mark.parametrize(
    "junk",
    [
        b'data: {"x": [' + b"[]," * 40_000 + b"[]]}\n\n",
        b'data: {"x": "' + b"x" * 40_000 + b'"}\n\n',
        b": " + b"x" * 40_000 + b"\n\ndata: 1\n\n",
    ],
)
def test_a_stream_has_so_many_values_an_event_and_so_many_bytes_whatever_it_says(junk: bytes) -> None:
    async def chatty(asked: Asked) -> None:
        await asked.stream(*[junk] * 20, DONE)

    async def run() -> None:
        server = FakeServer(answer=chatty)
        async with running(server):
            client = Client(None, QUICK)
            try:
                async with aclosing(client.stream(f"{server.url}/v1/completions", {}, 500_000)) as stream:
                    async for _ in stream:
                        pass
            finally:
                await client.close()

    with pytest.raises(FaultError, match="oversized"):
        asyncio.run(run())


def test_no_cookie_of_a_server_is_kept_for_it_or_for_another_one_of_its_host() -> None:
    asked: list[Asked] = []

    async def giving(one: Asked) -> None:
        asked.append(one)
        await one.reply(200, {}, more=f"Set-Cookie: c{len(asked)}={'x' * 4000}; Path=/\r\n")

    async def run() -> None:
        first, second = FakeServer(listed=giving), FakeServer(listed=giving)
        async with running(first), running(second):
            made = Client(None, QUICK)
            try:
                for url in (first.url, second.url, first.url):
                    await made.ask(f"{url}/v1/models")
            finally:
                await made.close()

    asyncio.run(run())
    assert [one.headers.get("cookie") for one in asked] == [None, None, None]


def test_a_short_question_is_bounded_in_time_and_size() -> None:
    async def silent(asked: Asked) -> None:
        await asked.closed.wait()

    async def dripping(asked: Asked) -> None:
        await asked.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while not asked.closed.is_set():
            await asked.send(b" ")
            await asyncio.sleep(0.02)

    async def huge(asked: Asked) -> None:
        await asked.reply(200, b" " * (MAX_BODY_BYTES + 1))

    async def nonsense(asked: Asked) -> None:
        await asked.reply(200, b"<html>")

    cases = ((silent, "timeout"), (dripping, "timeout"), (huge, "oversized"), (nonsense, "invalid_response"))
    for behaviour, name in cases:
        with pytest.raises(FaultError) as caught:
            ask_of(FakeServer(listed=behaviour), timeouts=QUICK if name == "timeout" else Timeouts())
        assert caught.value.name == name


def test_a_redirect_is_not_followed_and_a_proxy_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = FakeServer()

    async def run() -> str:
        async with running(elsewhere):
            monkeypatch.setenv("HTTP_PROXY", elsewhere.url)

            async def redirect(asked: Asked) -> None:
                await asked.reply(302, b"", more=f"Location: {elsewhere.url}/v1/models\r\n")

            server = FakeServer(listed=redirect)
            async with running(server):
                client = Client("sk-secret", QUICK)
                with pytest.raises(FaultError) as caught:
                    await client.ask(f"{server.url}/v1/models")
                await client.close()
                return caught.value.name

    assert asyncio.run(run()) == "redirect"
    assert elsewhere.asked == []


def test_whoever_reads_a_stream_may_take_its_time_and_leave() -> None:
    async def answer(asked: Asked) -> None:
        await asked.stream(b"data: 1\n\n", b"data: 2\n\n", DONE)

    async def endless(asked: Asked) -> None:
        await asked.stream(b"data: 1\n\n")
        await asked.closed.wait()

    async def run() -> list[object]:
        server, other = FakeServer(answer=answer), FakeServer(answer=endless)
        async with running(server, other):
            client, said = Client(None, QUICK), []
            async with aclosing(client.stream(f"{server.url}/v1/completions", {}, 2**20)) as stream:
                async for one in stream:
                    said.append(one)
                    await asyncio.sleep(QUICK.silence + 0.1)
            async with aclosing(client.stream(f"{other.url}/v1/completions", {}, 2**20)) as stream:
                said.append(await anext(stream))
            await asyncio.wait_for(other.answers[0].closed.wait(), 1)
            await client.close()
            return said

    assert asyncio.run(run()) == [1, 2, 1]
