import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from imprint.serve.generation.job import Ended, Job, ModelInfo, RefusedError
from imprint.serve.store.errors import StoreError
from imprint.serve.web.answers import AnswerSet
from imprint.serve.web.errors import ApiError
from imprint.serve.web.metrics import Metrics
from imprint.serve.web.services import MAX_TOO_LONG, Services
from imprint.serve.web.settings import WebSettings
from tests.serve.web.scripted import ScriptedBackend, ScriptedStore, principal


def answer_set() -> AnswerSet:
    backend = ScriptedBackend()
    return AnswerSet(Services(backend, ScriptedStore().as_store(), WebSettings(), Metrics(backend)), principal("ada", "user"), "127.0.0.1")


def job(text: str) -> Job:
    return Job("base", "account:ada", text=text)


def test_answers_are_collected_in_their_order_and_counted_once() -> None:
    async def collect() -> None:
        answers = answer_set()
        await answers.start([job("one"), job("two")])
        assert [answer.text for answer in await answers.collect()] == ["echo: one", "echo: two"]
        assert answers.usage() == {"prompt_tokens": 3, "completion_tokens": 18, "total_tokens": 21}
        quota = answers.services.store.quota
        assert (quota.settled, quota.reserved) == ([24], 0)  # type: ignore[attr-defined]

    asyncio.run(collect())


def test_the_seconds_of_a_token_are_counted_once_an_answer() -> None:
    async def collect() -> bytes:
        answers = answer_set()
        await answers.start([job("one"), job("two")])
        await answers.collect()
        return answers.services.metrics.text()

    text = asyncio.run(collect())
    assert b"imprint_first_token_seconds_count 1.0" in text
    assert b"imprint_token_seconds_count 2.0" in text


def test_where_one_is_refused_none_runs_on() -> None:
    async def start() -> None:
        answers = answer_set()
        with pytest.raises(Exception, match="Too many wait"):
            await answers.start([job("slow"), job("full")])
        assert [answer.generation.ended for answer in answers.answers] == [True, True]
        assert answers.services.store.quota.settled == [0]  # type: ignore[attr-defined]

    asyncio.run(start())


def test_whoever_leaves_ends_all_and_what_was_made_is_counted() -> None:
    async def leave() -> None:
        answers = answer_set()
        await answers.start([job("slow"), job("slow"), job("hi")])
        asyncio.get_running_loop().call_later(0.05, answers.on_disconnect)
        await answers.collect()
        assert [answer.ended.reason for answer in answers.answers if answer.ended] == ["cancelled", "cancelled", "stop"]
        assert answers.services.store.quota.reserved == 0  # type: ignore[attr-defined]

    asyncio.run(leave())


def test_a_prompt_that_was_never_run_costs_nothing() -> None:
    async def leave() -> None:
        answers = answer_set()
        await answers.start([job("slow"), job("slow")])
        for answer, ended in zip(answers.answers, (Ended("cancelled", 4, 7), Ended("cancelled", 0, 0)), strict=True):
            answer.generation.push(ended)
        await answers.collect()
        assert answers.services.store.quota.settled == [11]  # type: ignore[attr-defined]
        assert answers.usage() == {"prompt_tokens": 4, "completion_tokens": 7, "total_tokens": 11}

    asyncio.run(leave())


def test_what_is_kept_of_a_question_is_counted_also_where_its_answer_never_ran() -> None:
    async def leave() -> None:
        answers = answer_set()
        answers.least_tokens = 500
        await answers.prepare([job("slow")])
        assert answers.services.store.quota.reserved == 500  # type: ignore[attr-defined]
        answers.begin()
        answers.answers[0].generation.push(Ended("cancelled", 0, 0))
        await answers.collect()
        assert answers.services.store.quota.settled == [500]  # type: ignore[attr-defined]

    asyncio.run(leave())


def test_an_answer_that_a_shutdown_cut_is_an_error() -> None:
    async def cut() -> None:
        answers = answer_set()
        await answers.start([job("slow")])
        answers.services.draining = True
        answers.cancel()
        with pytest.raises(ApiError) as caught:
            await answers.collect()
        assert caught.value.code == "shutting_down"

    asyncio.run(cut())


def test_a_backend_that_restarts_says_when_to_try_again() -> None:
    answers = answer_set()

    async def fail() -> ApiError | None:
        await answers.start([job("hi")])
        answers.answers[0].ended = Ended("error", 1, 0, None, "unavailable")
        return answers.problem(answers.answers[0])

    problem = asyncio.run(fail())
    assert problem is not None
    assert (problem.status, "Retry-After" in problem.headers) == (503, True)


@pytest.mark.parametrize("form", [{}, {"max_new_tokens": 100, "may_be_shorter": True}])
def test_an_answer_without_a_length_takes_no_more_than_what_is_left_of_the_day(form: dict[str, Any]) -> None:
    async def start() -> tuple[list[int | None], list[str]]:
        answers = answer_set()
        answers.services.store.quota.most = 21  # type: ignore[attr-defined]
        await answers.start([replace(job("long"), **form), replace(job("long"), **form)])
        await answers.collect()
        lengths = [job.max_new_tokens for job in answers.services.backend.jobs]  # type: ignore[attr-defined]
        return lengths, [answer.ended.reason for answer in answers.answers if answer.ended]

    assert asyncio.run(start()) == ([6, 6], ["length", "length"])


class Estimating(ScriptedBackend):
    """Counts no prompt: what it takes for too long by its estimate may fit."""

    def models(self) -> Sequence[ModelInfo]:
        return [replace(model, counts_tokens=False) for model in super().models()]

    def _length(self, text: str, most: int = 127) -> int:
        return len(text)


@pytest.mark.parametrize(("length", "reserved"), [(5, 305), (1000, 428), (None, 300)])
def test_a_prompt_that_is_estimated_is_set_aside_whole_and_so_is_its_answer(length: int | None, reserved: int) -> None:
    async def prepare() -> int:
        backend = Estimating()
        services = Services(backend, ScriptedStore().as_store(), WebSettings(), Metrics(backend))
        answers = AnswerSet(services, principal("ada", "user"), "127.0.0.1")
        await answers.prepare([replace(job("x" * 300), max_new_tokens=length)])
        return services.store.quota.reserved  # type: ignore[attr-defined, no-any-return]

    assert asyncio.run(prepare()) == reserved


@pytest.mark.parametrize("most", [10**6, 100])
def test_whoever_sends_very_many_prompts_that_do_not_fit_waits_and_no_other(most: int) -> None:
    async def ask() -> None:
        answers = answer_set()
        answers.services.store.quota.most = most  # type: ignore[attr-defined]
        for _ in range(MAX_TOO_LONG):
            with pytest.raises(RefusedError):
                await AnswerSet(answers.services, answers.principal, "127.0.0.1").start([job("x" * 2000)])
        with pytest.raises(ApiError) as caught:
            await answers.start([job("hi")])
        assert (caught.value.status, caught.value.code) == (429, "rate_limited")
        assert answers.services.backend.counts == (MAX_TOO_LONG if most < 128 else 0)  # type: ignore[attr-defined]
        await AnswerSet(answers.services, principal("bob", "user"), "127.0.0.1").start([Job("base", "account:bob", text="hi")])

    asyncio.run(ask())


def test_no_model_works_for_an_account_without_tokens() -> None:
    async def ask() -> tuple[int, int, list[int]]:
        answers = answer_set()
        backend, quota = answers.services.backend, answers.services.store.quota
        quota.most = 0  # type: ignore[attr-defined]
        with pytest.raises(StoreError, match="No tokens are left"):
            await answers.start([replace(job("slow"), max_new_tokens=5), replace(job("hi"), max_new_tokens=5)])
        await asyncio.sleep(0)
        return len(backend.jobs), backend.running, quota.settled  # type: ignore[attr-defined]

    assert asyncio.run(ask()) == (0, 0, [])
