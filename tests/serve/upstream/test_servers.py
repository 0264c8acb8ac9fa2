import asyncio
import ssl
from typing import Any

import httpx2
import pytest
from starlette.responses import JSONResponse

from imprint.serve.generation.job import Ended
from imprint.serve.upstream.backend import UpstreamLimits
from imprint.serve.upstream.client import Client, Timeouts
from imprint.serve.upstream.faults import FaultError
from imprint.serve.upstream.servers import SUSPICIOUS, Server, Servers, UpstreamModel, read_models
from imprint.serve.web.models import describe_model
from tests.serve.outcomes import outcome_of
from tests.serve.upstream.fakes import ANSWER, QUICK, Asked, FakeServer, backend_of, behave, hang, job_of, running, until
from tests.serve.upstream.misbehaviour import FAULTS


def listed(*entries: Any) -> dict[str, Any]:
    return {"object": "list", "data": list(entries)}


def test_models_are_those_that_the_server_lists() -> None:
    base = {"id": "demo", "root": "/data/models/base", "max_model_len": 100, "parent": None}
    lora = {"id": "flowers", "root": "/data/loras/flowers/", "max_model_len": 80, "parent": "demo"}
    assert read_models(listed(base, lora), 90) == {
        "demo": UpstreamModel(90, "base", None),
        "flowers": UpstreamModel(80, "flowers", "demo"),
    }
    assert read_models(listed({"id": "gpt"}), 50) == {"gpt": UpstreamModel(50, "gpt", None)}


@pytest.mark.parametrize("broken", ["x\ud800", "/models/\udfff/x", "a\nb", "\x1b[2J", "a\u202eb", "\0"])
def test_what_is_no_text_to_show_is_neither_the_name_of_a_model_nor_of_its_folder(broken: str) -> None:
    entry = {"id": "demo", "max_model_len": 9}
    shown = read_models(listed({**entry, "root": broken, "parent": broken}), None)["demo"]
    assert shown.root == "demo"
    info = Servers([server_having({"demo": shown})], {}).models()[0]
    JSONResponse(describe_model(info))
    assert info.parent is None
    with pytest.raises(FaultError, match="invalid_response"):
        read_models(listed({**entry, "id": broken}), None)


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (listed({"id": "gpt"}), "no_length"),
        (listed({"id": "gpt", "max_model_len": -1}), "no_length"),
        (listed(), "no_model"),
        ([], "invalid_response"),
        ({"data": {}}, "invalid_response"),
        (listed({"id": "x" * 300, "max_model_len": 9}), "invalid_response"),
        (listed({"id": "a\nb", "max_model_len": 9}), "invalid_response"),
        (listed("gpt"), "invalid_response"),
    ],
)
def test_a_list_that_is_none_is_a_fault(said: Any, fault: str) -> None:
    with pytest.raises(FaultError, match=fault):
        read_models(said, None)


def server_having(models: dict[str, UpstreamModel], clock: Any = None) -> Server:
    server = Server("http://127.0.0.1:1", None, *([clock] if clock else []))
    server.models, server.answers, server.count_path = models, True, "/tokenize"
    return server


def server_with(clock: Any = None, **models: int) -> Server:
    return server_having({name: UpstreamModel(length, name, None) for name, length in models.items()}, clock)


def test_a_model_of_several_servers_is_as_long_as_the_shortest_and_adapters_come_last() -> None:
    first, second = server_with(demo=100), server_with(demo=50, other=70)
    first.models = {"flowers": UpstreamModel(100, "flowers", "demo"), **first.models}
    second.count_path = None
    models = Servers([first, second], {}).models()

    assert [(model.id, model.parent, model.max_length, model.counts_tokens) for model in models] == [
        ("demo", None, 50, False),
        ("other", None, 70, False),
        ("flowers", "demo", 100, True),
    ]
    assert [(model.id, model.parent) for model in Servers([first], {"a": "flowers", "b": "demo", "c": "gone"}).models()] == [
        ("b", None),
        ("a", "b"),
    ]


def test_the_one_with_the_fewest_answers_is_taken_of_those_that_have_the_model_and_room() -> None:
    first, second, third = server_with(demo=9), server_with(demo=9), server_with(other=9)
    servers = Servers([first, second, third], {})
    first.running = 2
    second.running = 1
    assert servers.least_loaded("demo", None) is second
    assert servers.least_loaded("demo", None, {second}) is first
    assert servers.least_loaded("demo", 1) is None
    second.answers = False
    assert servers.least_loaded("demo", None) is first
    assert servers.least_loaded("gone", None) is None


def test_one_that_fails_several_times_is_left_out_for_longer_and_longer() -> None:
    async def run() -> list[bool]:
        now = 0.0
        server, client = server_with(lambda: now, demo=9), Client(None, Timeouts(retry=1, longest_retry=4))
        seen = []
        for owner in ["ann", "bob", *["ann"] * SUSPICIOUS][: SUSPICIOUS - 1]:
            server.failed(FaultError("connection_lost"), client, owner)
        seen.append(server.usable)
        server.failed(FaultError("connection_lost"), client, "cy")
        seen.append(server.usable)
        now += 1
        seen.append(server.usable)
        server.failed(FaultError("connection_lost"), client, "cy")
        now += 1
        seen.append(server.usable)
        now += 1
        seen.append(server.usable)
        server.answered()
        server.failed(FaultError("connection_lost"), client, "cy")
        seen.append(server.usable)
        server.failed(FaultError("unreachable"), client, "cy")
        seen.append(server.usable)
        await client.close()
        return seen

    assert asyncio.run(run()) == [True, False, True, False, True, True, False]


def test_one_owner_takes_no_server_from_the_others() -> None:
    async def run() -> tuple[bool, Server | None, Server | None, Server | None]:
        now = 0.0
        first, second = server_with(lambda: now, demo=9), server_with(lambda: now, demo=9)
        servers, client = Servers([first, second], {}), Client(None, Timeouts(retry=1))
        for _ in range(5 * SUSPICIOUS):
            first.failed(FaultError("status", status=500), client, "ann")
        both = first.usable, servers.least_loaded("demo", None, owner="ann"), servers.least_loaded("demo", None, owner="bob")
        now += client.timeouts.longest_retry
        await client.close()
        return *both, servers.least_loaded("demo", None, owner="ann")

    usable, for_ann, for_bob, later = asyncio.run(run())
    assert usable
    assert (for_ann is not for_bob, for_bob is later) == (True, True)


@pytest.mark.parametrize("error", [ssl.SSLError("wrong version number"), ConnectionResetError(), RuntimeError("of a library")])
def test_whatever_a_check_raises_the_server_is_watched_on(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    handle = httpx2.AsyncHTTPTransport.handle_async_request

    async def often_broken(self: httpx2.AsyncHTTPTransport, request: httpx2.Request) -> httpx2.Response:
        nonlocal asked
        asked += 1
        if asked in (1, 2, 5):
            raise error
        return await handle(self, request)

    async def run() -> bool:
        fake = FakeServer(counts=False)
        async with running(fake), backend_of(fake, wait=False) as backend:
            await until(backend.ready)
            await until(lambda: asked > 7)
            await until(backend.ready)
            return backend.ready()

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", often_broken)
    assert asyncio.run(run())


def test_a_check_learns_whether_tokens_are_counted() -> None:
    async def run(fake: FakeServer) -> tuple[bool, bool, list[str]]:
        client = Client(None, QUICK)
        async with running(fake):
            server = Server(fake.url, None)
            answered = await server.check(client)
            assert await server.check(client)
        assert not await server.check(client)
        await client.close()
        return answered, server.counts_tokens, [asked.path for asked in fake.asked]

    assert asyncio.run(run(FakeServer())) == (True, True, ["/v1/models", "/tokenize", "/v1/models"])
    assert asyncio.run(run(FakeServer(counts=False)))[:2] == (True, False)


def test_no_server_has_more_answers_than_slots_where_another_takes_none() -> None:
    async def run() -> tuple[int, set[str], int]:
        running_now = most = 0

        async def answer(asked: Asked) -> None:
            nonlocal running_now, most
            running_now += 1
            most = max(most, running_now)
            await asyncio.sleep(0.05)
            running_now -= 1
            await behave(asked)

        full, good = FakeServer(answer=FAULTS["429"][0]), FakeServer(answer=answer)
        async with running(full, good), backend_of(full, good, limits=UpstreamLimits(slots=2), timeouts=Timeouts()) as backend:
            generations = [await backend.submit(job_of(owner=f"{number}")) for number in range(10)]
            ends: set[str] = {(await outcome_of(one)).end.reason for one in generations}
            await until(lambda: backend.statistics().running == 0)
            return most, ends, len(full.answers)

    most, ends, refused = asyncio.run(run())
    assert (most, ends) == (2, {"stop"})
    assert refused <= 2  # then it rests


@pytest.mark.parametrize(("said", "least", "most"), [("", 0.1, 0.4), ("Retry-After: 99999\r\n", 0.5, 1.0)])
def test_a_server_that_takes_none_now_rests_for_a_moment_while_others_wait(said: str, least: float, most: float) -> None:
    async def run() -> float:
        async def refuse(asked: Asked) -> None:
            server.answer = behave
            await asked.reply(429, {}, more=said)

        server = FakeServer(answer=refuse)
        async with running(server), backend_of(server, timeouts=Timeouts(retry=0.1)) as backend:
            assert (await outcome_of(await backend.submit(job_of()))).end.kind == "unavailable"
            begun = asyncio.get_running_loop().time()
            assert (await outcome_of(await backend.submit(job_of()))).text == "".join(ANSWER)
            return asyncio.get_running_loop().time() - begun

    assert least * 0.8 <= asyncio.run(run()) < most


def test_one_that_waits_again_ends_with_what_the_last_server_said_once_the_others_are_gone() -> None:
    async def run() -> tuple[Ended, int]:
        full, good = FakeServer(answer=FAULTS["429"][0]), FakeServer(answer=hang)
        limits, timeouts = UpstreamLimits(slots=1), Timeouts(check=0.05)
        async with running(full, good), backend_of(full, good, limits=limits, timeouts=timeouts) as backend:
            first, _ = [await backend.submit(job_of(owner=f"{number}")) for number in range(2)]
            await until(lambda: len(full.answers) == 1 and backend.statistics().waiting == 1)
            good.listed = FAULTS["500"][0]
            return (await outcome_of(first)).end, backend.statistics().running

    end, others = asyncio.run(run())
    assert end.error is not None
    assert "takes no request now" in end.error.english
    assert others == 1
