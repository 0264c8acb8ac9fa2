import asyncio
import json
import logging
import os
import random
import ssl
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from imprint.messages import UserError
from imprint.serve.generation.job import Ended, Job, RefusedError, TextDelta, Waiting
from imprint.serve.upstream.backend import KEY_VARIABLE, UpstreamBackend, UpstreamLimits, open_upstream, read_key
from imprint.serve.upstream.client import Timeouts
from imprint.serve.upstream.section import UpstreamSection
from tests.serve.outcomes import Outcome, outcome_of
from tests.serve.upstream.fakes import (
    ANSWER,
    DONE,
    QUICK,
    Asked,
    FakeServer,
    backend_of,
    behave,
    chunk,
    hang,
    job_of,
    running,
    until,
)
from tests.serve.upstream.misbehaviour import FAULTS, pings, slow
from tests.serve.web.scripted import KEY, serving


def answer_of(server: FakeServer, job: Job | None = None, **knobs: Any) -> Outcome:
    """What comes of one job."""

    async def run() -> Outcome:
        async with running(server), backend_of(server, **knobs) as backend:
            return await outcome_of(await backend.submit(job or job_of()))

    return asyncio.run(run())


def refusal_of(server: FakeServer, job: Job, **knobs: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        answer_of(server, job, **knobs)
    return caught.value


FAULTS_OF_REQUESTS = ["flat error", "403", "filter", "filter in the middle", "400 of the context", "prompt above the context", "HTML 404"]
"""What servers say of a request, whoever sends it."""


class TestAnswers:
    def test_come_as_they_are_written_with_the_tokens_that_the_server_counts(self) -> None:
        outcome = answer_of(FakeServer())

        assert outcome.text == "".join(ANSWER)
        assert (outcome.end.reason, outcome.end.prompt_tokens, outcome.end.new_tokens) == ("stop", 7, 3)
        assert sum(one.new_tokens for one in outcome.events if isinstance(one, TextDelta)) == 3

    def test_are_never_longer_than_what_fits(self) -> None:
        server = FakeServer(models={"demo": 10})
        answer_of(server, job_of("12345678", max_new_tokens=100))
        answer_of(server, job_of("12345678", max_new_tokens=None))
        assert [one.body["max_tokens"] for one in server.answers] == [2, 2]

    def test_a_prompt_that_leaves_no_room_is_refused_with_both_numbers(self) -> None:
        refused = refusal_of(FakeServer(models={"demo": 10}), job_of("1234567890"))
        assert refused.kind == "context_length_exceeded"
        assert "has 10 tokens, and prompt and answer together may have 10" in refused.message.english

    def test_log_probabilities_are_those_of_the_server(self) -> None:
        async def answer(asked: Asked) -> None:
            top = [{"token": "白", "logprob": -0.5, "bytes": list("白".encode())}]
            content = [{"token": "\ufffd", "logprob": -0.5, "bytes": [231, 153], "top_logprobs": top}]
            await asked.stream(chunk("白", logprobs={"content": content}), chunk(reason="stop"), DONE)

        server = FakeServer(answer=answer)
        outcome = answer_of(server, job_of(top_logprobs=1))
        (token,) = [token for one in outcome.events if isinstance(one, TextDelta) for token in one.tokens]

        assert (token.utf8, token.log_prob, token.text, token.top[0].utf8.decode()) == (b"\xe7\x99", -0.5, "", "白")
        assert (server.answers[0].body["logprobs"], server.answers[0].body["top_logprobs"]) == (True, 1)
        assert answer_of(FakeServer(), job_of(top_logprobs=1)).end.kind == "invalid"

    def test_a_server_that_counts_nothing_is_counted_by_its_parts_up_to_what_was_asked_for(self) -> None:
        async def answer(asked: Asked) -> None:
            await asked.stream(chunk("白"), chunk("色"), chunk(reason="length"), DONE)

        server = FakeServer(counts=False, answer=answer)
        outcome = answer_of(server, job_of(max_new_tokens=None), api="openai", max_length=50)

        assert (outcome.end.reason, outcome.end.prompt_tokens, outcome.end.new_tokens) == ("length", 8, 2)
        assert "max_tokens" not in server.answers[0].body
        server = FakeServer(answer=lambda asked: asked.stream(*[chunk("a")] * 70, chunk(reason="stop"), DONE))
        assert answer_of(server, job_of(max_new_tokens=10)).end.new_tokens == 10

    def test_a_prompt_that_nobody_counts_is_refused_where_it_is_clearly_too_long(self) -> None:
        server = FakeServer(counts=False)
        refused = refusal_of(server, job_of("abc " * 200), api="openai", max_length=64)
        assert (refused.kind, server.answers) == ("context_length_exceeded", [])
        assert "has at least 101 tokens" in refused.message.english
        assert answer_of(server, job_of("abc " * 60), api="openai", max_length=64).end.reason == "stop"

    def test_nobody_asks_a_server_that_counts_nothing_for_more_than_the_context(self) -> None:
        server = FakeServer(counts=False)
        answer_of(server, job_of(max_new_tokens=1_000_000), api="openai", max_length=64)
        assert [one.body["max_tokens"] for one in server.answers] == [64]

    def test_what_a_server_cannot_do_is_refused_by_name(self) -> None:
        assert refusal_of(FakeServer(), job_of(top_k=5), api="openai").message.english.startswith("top_k:")
        with_tools: tuple[dict[str, object], ...] = ({"role": "system", "content": "", "tools": []},)
        assert "tools" in refusal_of(FakeServer(), job_of(messages=with_tools)).message.english

    def test_names_may_be_ours(self) -> None:
        async def run() -> tuple[list[str], Outcome, str]:
            server = FakeServer(models={"org/demo": 64, "other": 64})
            async with running(server), backend_of(server, names={"flowers": "org/demo"}) as backend:
                names = [model.id for model in backend.models()]
                outcome = await outcome_of(await backend.submit(job_of(model="flowers")))
                with pytest.raises(RefusedError, match=r"there is no model other\. There are: flowers"):
                    await backend.submit(job_of(model="other"))
                return names, outcome, server.answers[0].body["model"]

        names, outcome, theirs = asyncio.run(run())
        assert (names, outcome.text, theirs) == (["flowers"], "".join(ANSWER), "org/demo")

    def test_tokens_are_counted_or_estimated(self) -> None:
        async def run(server: FakeServer) -> tuple[int, bool]:
            async with running(server), backend_of(server) as backend:
                return await backend.count(job_of("三个字")), backend.models()[0].counts_tokens

        assert asyncio.run(run(FakeServer())) == (3, True)
        assert asyncio.run(run(FakeServer(counts=False))) == (9, False)


class TestAnotherService:
    def test_of_ours_stands_behind_this_one(self) -> None:
        async def run(url: str) -> list[Outcome]:
            backend = UpstreamBackend([url], key=KEY, timeouts=Timeouts())
            await until(backend.ready)
            assert [(model.id, model.parent, model.max_length) for model in backend.models()] == [
                ("base", None, 128),
                ("tuned", "base", 128),
            ]
            jobs = [
                job_of("say 白色", model="tuned", seed=5, stop=("x",), top_k=3, repetition_penalty=1.1, top_logprobs=2),
                job_of(model="base", messages=None, text="say 白色", top_logprobs=0),
                job_of("say 白色", model="base", max_new_tokens=1),
                job_of("fail", model="base"),
                job_of("full", model="base"),
                job_of("bug", model="base"),
            ]
            outcomes = [await outcome_of(await backend.submit(job)) for job in jobs]
            with pytest.raises(RefusedError) as caught:
                await backend.submit(job_of("x" * 200, model="base"))
            assert caught.value.kind == "context_length_exceeded"
            assert "has 200 tokens, and prompt and answer together may have 128" in caught.value.message.english
            await backend.close(0)
            return outcomes

        with serving() as service:
            chat, text, short, failed, full, bug = asyncio.run(run(service.url))
        assert [(one.text, one.end.reason, one.end.new_tokens) for one in (chat, text, short)] == [
            ("白色", "stop", 2),
            ("白色", "stop", 2),
            ("白", "length", 1),
        ]
        assert chat.end.prompt_tokens == len("say 白色")
        tokens = [token for one in chat.events if isinstance(one, TextDelta) for token in one.tokens]
        assert [(token.text, token.log_prob, len(token.top)) for token in tokens] == [("白", -0.5, 2), ("色", -0.5, 2)]
        assert failed.text == "ec"
        assert failed.end.new_tokens in (1, 2)  # an estimate: the other service counts at the end alone
        assert {one.end.reason for one in (failed, full, bug)} == {"error"}


class TestFaults:
    @pytest.mark.parametrize("name", FAULTS)
    def test_every_one_ends_the_answer_once_in_our_own_words(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        behaviour, kind, words = FAULTS[name]
        server = FakeServer(answer=behaviour)
        with caplog.at_level(logging.INFO):
            outcome = answer_of(server, timeouts=QUICK if behaviour in {slow, hang, pings} else Timeouts())

        assert (outcome.end.reason, outcome.end.kind) == ("error", kind)
        assert outcome.end.error is not None
        assert words in outcome.end.error.english
        assert "secret" not in outcome.end.error.line + caplog.text
        assert len(server.answers) == 1

    @pytest.mark.parametrize("case", ["more tokens", "more alternatives", "longer tokens"])
    def test_so_are_more_log_probabilities_than_were_asked_for(self, case: str) -> None:
        text, tokens, tops = {"more tokens": ("a", 40, 1), "more alternatives": ("a", 1, 9), "longer tokens": ("a" * 90_000, 1, 1)}[case]
        named = {"token": text, "logprob": -0.5}
        content = [{**named, "top_logprobs": [named] * tops}] * tokens

        async def answer(asked: Asked) -> None:
            await asked.stream(chunk("a", logprobs={"content": content}), chunk(reason="stop"), DONE)

        end = answer_of(FakeServer(answer=answer), job_of(top_logprobs=2)).end
        assert end.error is not None
        assert "more than was asked" in end.error.english

    @pytest.mark.parametrize(
        ("broken", "words"), [(ssl.SSLError("bad record"), "broke"), (RuntimeError("of a library"), "this service failed")]
    )
    def test_so_is_whatever_breaks_on_the_way(self, broken: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
        async def fail(*_: object) -> None:
            raise broken

        async def run() -> Ended:
            server = FakeServer()
            async with running(server), backend_of(server) as backend:
                generation = await backend.submit(job_of(), held=True)
                monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", fail)
                generation.begin()
                return (await outcome_of(generation)).end

        end = asyncio.run(run())
        assert end.error is not None
        assert words in end.error.english

    def test_a_server_that_is_gone_is_one_too(self) -> None:
        async def run() -> tuple[Outcome, RefusedError]:
            server = FakeServer()
            async with AsyncExitStack() as stack:
                async with running(server):
                    backend = await stack.enter_async_context(backend_of(server, timeouts=Timeouts(connect=0.5)))
                outcome = await outcome_of(await backend.submit(job_of()))
                with pytest.raises(RefusedError) as caught:
                    await backend.submit(job_of())
                return outcome, caught.value

        outcome, refused = asyncio.run(run())
        assert (outcome.end.kind, refused.kind, refused.retry_after) == ("unavailable", "unavailable", 5)

    @pytest.mark.parametrize("name", [*FAULTS_OF_REQUESTS, "500"])
    def test_what_one_user_did_does_not_count_against_the_server(self, name: str) -> None:
        async def run() -> int:
            server = FakeServer(answer=FAULTS[name][0])
            async with running(server), backend_of(server, timeouts=Timeouts()) as backend:
                for number in range(6):
                    await outcome_of(await backend.submit(job_of(owner=f"{number if name in FAULTS_OF_REQUESTS else 0}")))
                return backend.statistics().servers

        assert asyncio.run(run()) == 1


class TestServers:
    def test_the_least_loaded_is_asked(self) -> None:
        async def run() -> list[int]:
            servers = [FakeServer(answer=hang) for _ in range(3)]
            async with running(*servers), backend_of(*servers, timeouts=Timeouts()) as backend:
                for number in range(6):
                    await backend.submit(job_of(owner=f"{number}"))
                await until(lambda: sum(len(server.answers) for server in servers) == 6)
                return [len(server.answers) for server in servers]

        assert asyncio.run(run()) == [2, 2, 2]

    def test_a_dead_one_is_left_out_and_comes_back(self) -> None:
        async def run() -> list[str]:
            first, second = FakeServer(), FakeServer()
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(running(second))
                async with running(first):
                    backend = await stack.enter_async_context(backend_of(first, second))
                texts = [(await outcome_of(await backend.submit(job_of()))).text for _ in range(3)]
                await until(lambda: backend.statistics().servers == 1)
                async with running(first):
                    await until(lambda: backend.statistics().servers == 2)
                    texts.append((await outcome_of(await backend.submit(job_of()))).text)
                assert backend.ready()
            assert not backend.ready()
            return texts

        assert asyncio.run(run()) == ["".join(ANSWER)] * 4

    def test_one_whose_answers_fail_though_it_lists_its_models_gets_no_more_than_a_few(self) -> None:
        async def run() -> tuple[int, int]:
            good, bad = FakeServer(), FakeServer(answer=FAULTS["no finish_reason"][0])
            timeouts = Timeouts(check=0.02, retry=30, longest_retry=30)
            async with running(good, bad), backend_of(bad, good, timeouts=timeouts) as backend:
                ends = [(await outcome_of(await backend.submit(job_of()))).end.reason for _ in range(12)]
                return ends.count("error"), len(bad.answers)

        assert asyncio.run(run()) == (3, 3)

    @pytest.mark.parametrize("name", ["429", "HTML 502", "401 with a string as body", "model that is gone"])
    def test_another_is_asked_where_one_did_nothing(self, name: str) -> None:
        bad, good = FakeServer(answer=FAULTS[name][0]), FakeServer()

        async def run() -> Outcome:
            async with running(bad, good), backend_of(bad, good) as backend:
                return await outcome_of(await backend.submit(job_of()))

        assert asyncio.run(run()).text == "".join(ANSWER)
        assert (len(bad.answers), len(good.answers)) == (1, 1)

    def test_a_service_starts_before_its_servers(self) -> None:
        async def run() -> list[str]:
            server = FakeServer(listed=FAULTS["500"][0])
            async with running(server), backend_of(server, wait=False) as backend:
                await until(lambda: len(server.asked) > 1)
                assert not backend.ready()
                with pytest.raises(RefusedError, match="cannot be reached"):
                    await backend.submit(job_of())
                assert backend.models() == []
                server.listed = None
                await until(backend.ready)
                return [model.id for model in backend.models()]

        assert asyncio.run(run()) == ["demo"]


class TestQueue:
    def test_owners_take_turns_and_the_bound_holds(self) -> None:
        async def run() -> tuple[list[str], list[list[int]]]:
            release = asyncio.Event()

            async def answer(asked: Asked) -> None:
                await release.wait()
                await behave(asked)

            server = FakeServer(answer=answer)
            async with running(server), backend_of(server, limits=UpstreamLimits(slots=1, waiting=8), timeouts=Timeouts()) as backend:
                jobs = [job_of(text, owner=text[0]) for text in ("a1", "a2", "a3", "b1")]
                generations = [await backend.submit(job) for job in jobs]
                with pytest.raises(RefusedError) as caught:
                    await backend.submit(job_of(owner="a"))
                assert caught.value.kind == "queue_full"
                release.set()
                outcomes = [await outcome_of(generation) for generation in generations]
                await until(lambda: backend.statistics().running == 0)
                places = [[one.position for one in outcome.events if isinstance(one, Waiting)] for outcome in outcomes]
                return [one.body["messages"][0]["content"] for one in server.answers], places

        order, places = asyncio.run(run())
        assert order == ["a1", "a2", "b1", "a3"]
        assert all(place == sorted(place, reverse=True) for place in places)

    def test_an_owner_has_no_more_answers_at_a_time_than_it_may(self) -> None:
        async def run() -> int:
            server = FakeServer(answer=hang)
            async with running(server), backend_of(server, timeouts=Timeouts()) as backend:
                for _ in range(5):
                    await backend.submit(job_of(concurrency=2))
                await until(lambda: len(server.answers) == 2)
                await asyncio.sleep(0.05)
                return len(server.answers)

        assert asyncio.run(run()) == 2

    def test_a_held_answer_is_asked_of_no_server_before_it_begins(self) -> None:
        async def run() -> tuple[int, int, str]:
            server = FakeServer()
            async with running(server), backend_of(server) as backend:
                held, cancelled = [await backend.submit(job_of(), held=True) for _ in range(2)]
                cancelled.cancel()
                cancelled.begin()
                await asyncio.sleep(0.05)
                before = len(server.answers)
                held.begin()
                outcome = await outcome_of(held)
                return before, len(server.answers), outcome.text

        assert asyncio.run(run()) == (0, 1, "".join(ANSWER))

    def test_cancelling_closes_the_connection_and_counts_what_was_written(self) -> None:
        async def run() -> tuple[Ended, Ended, int]:
            server = FakeServer(answer=hang)
            async with running(server), backend_of(server, timeouts=Timeouts()) as backend:
                generation = await backend.submit(job_of())
                waiting = await backend.submit(job_of())
                while not isinstance(await anext(generation), TextDelta):
                    pass
                waiting.cancel()
                generation.cancel()
                end, never_run = (await outcome_of(generation)).end, (await outcome_of(waiting)).end
                await asyncio.wait_for(server.answers[0].closed.wait(), 1)
                await until(lambda: backend.statistics().running == 0)
                assert len(server.answers) == 1
                return end, never_run, backend.statistics().cancelled

        end, never_run, cancelled = asyncio.run(run())
        assert (end.reason, end.new_tokens, cancelled) == ("cancelled", 1, 2)
        assert end.prompt_tokens > 0
        assert never_run == Ended("cancelled", 0, 0)

    def test_a_cancelled_answer_counts_the_tokens_that_its_server_told_without_their_text(self) -> None:
        async def hold_back(asked: Asked) -> None:
            await asked.stream(chunk("这", tokens=1), chunk("", tokens=7))
            await asked.closed.wait()

        async def run() -> int:
            server = FakeServer(answer=hold_back)
            async with running(server), backend_of(server, timeouts=Timeouts()) as backend:
                generation = await backend.submit(job_of())
                (answer,) = backend._open
                await until(lambda: answer.new_tokens == 7)
                generation.cancel()
                return (await outcome_of(generation)).end.new_tokens

        assert asyncio.run(run()) == 7

    def test_closing_lets_answers_go_on_for_the_grace_and_ends_the_others(self) -> None:
        async def run() -> list[tuple[str, str | None]]:
            async def answer(asked: Asked) -> None:
                if "slow" in json.dumps(asked.body):
                    await hang(asked)
                await asyncio.sleep(0.1)
                await behave(asked)

            server = FakeServer(answer=answer)
            async with running(server), backend_of(server, limits=UpstreamLimits(slots=2), timeouts=Timeouts()) as backend:
                generations = [await backend.submit(job_of(text, owner=text)) for text in ("quick", "slow", "late")]
                await until(lambda: len(server.answers) == 2)
                await backend.close(0.4)
                with pytest.raises(RefusedError):
                    await backend.submit(job_of())
                return [((end := (await outcome_of(generation)).end).reason, end.kind) for generation in generations]

        assert asyncio.run(run()) == [("stop", None), ("error", "unavailable"), ("error", "unavailable")]


class TestTrouble:
    def test_every_job_ends_once_and_leaves_nothing_whatever_servers_and_users_do(self) -> None:
        async def run() -> tuple[int, dict[str, int]]:
            rng = random.Random(0)
            behaviours = [behave] * len(FAULTS) + [behaviour for behaviour, _, _ in FAULTS.values()]

            async def answer(asked: Asked) -> None:
                await rng.choice(behaviours)(asked)

            servers = [FakeServer(answer=answer, counts=number > 0) for number in range(3)]
            ends: dict[str, int] = {}
            refusals: set[str] = set()

            async def user(name: str) -> None:
                for _ in range(12):
                    try:
                        generation = await backend.submit(job_of(owner=name, concurrency=rng.randint(1, 3)))
                    except RefusedError as refused:
                        refusals.add(refused.kind)
                        await asyncio.sleep(0.02)
                        continue
                    if rng.random() < 0.3:
                        asyncio.get_running_loop().call_later(rng.random() * 0.05, generation.cancel)
                    end = (await outcome_of(generation)).end
                    ends[end.reason] = ends.get(end.reason, 0) + 1

            async with running(*servers), backend_of(*servers, limits=UpstreamLimits(slots=3, waiting=64)) as backend:
                await asyncio.gather(*(user(f"{number}") for number in range(16)))
                await until(lambda: backend.statistics().running == 0)
                assert [server.running for server in backend._servers.all] == [0, 0, 0]
                assert (len(backend._queue), dict(backend._queue._running)) == (0, {})
            await asyncio.sleep(0.05)
            assert refusals <= {"unavailable", "queue_full"}
            return len(asyncio.all_tasks()), ends

        files = len(os.listdir("/proc/self/fd"))
        tasks, ends = asyncio.run(run())
        assert tasks == 1
        assert min(ends["stop"], ends["error"], ends["cancelled"]) > 5
        assert len(os.listdir("/proc/self/fd")) <= files


class TestKeys:
    def test_the_key_is_sent_to_the_servers_and_told_to_nobody(self, caplog: pytest.LogCaptureFixture) -> None:
        server = FakeServer(answer=FAULTS["401 with a string as body"][0])
        with caplog.at_level(logging.INFO):
            outcome = answer_of(server, key="sk-very-private")
        assert {one.headers["authorization"] for one in server.asked} == {"Bearer sk-very-private"}
        assert outcome.end.error is not None
        assert "sk-very-private" not in caplog.text + outcome.end.error.line

    def test_it_comes_from_a_file_or_from_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(KEY_VARIABLE, raising=False)
        file = tmp_path / "key"
        file.write_text("sk-of-file\n", encoding="utf-8")
        assert read_key(None) is None
        assert read_key(str(file)) == "sk-of-file"
        monkeypatch.setenv(KEY_VARIABLE, "sk-of-shell")
        assert read_key(None) == "sk-of-shell"
        for content in ("", "two words", "sk-\n-two-lines", "密钥"):
            file.write_text(content, encoding="utf-8")
            with pytest.raises(UserError, match="must hold a key alone") as caught:
                read_key(str(file))
            assert "two" not in str(caught.value)

    def test_a_file_that_is_not_there_is_said(self, tmp_path: Path) -> None:
        section = UpstreamSection(upstream=("http://[::1]:1",), upstream_key_file=str(tmp_path / "none"))
        with pytest.raises(UserError, match=r"upstream_key_file=.*cannot be read"):
            open_upstream(section, UpstreamLimits(), None)
