import asyncio
import gc
import random
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from imprint.inference.decoder import Decoder
from imprint.inference.request import Token
from imprint.model import Model
from imprint.serve.generation.answer import request_for
from imprint.serve.generation.job import Ended, Job, RefusedError, TextDelta
from imprint.serve.generation.worker import Limits, Worker
from tests.bases import FAMILIES, OTHER_CLASSES
from tests.serve.generation.workers import (
    alone,
    fail_once,
    job_of,
    model_of,
    mounted_models,
    random_job,
    run_some,
    schedules,
    users,
    worker_of,
)
from tests.serve.outcomes import Outcome, outcome_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return model_of("ChatGLM2-6B", tmp_path_factory.mktemp("worker"), adapters=True)


def answers(model: Model, jobs: list[Job], limits: Limits | None = None) -> list[Outcome]:
    async def run() -> list[Outcome]:
        async with worker_of(model, limits) as worker:
            generations = [await worker.submit(job) for job in jobs]
            return await asyncio.gather(*map(outcome_of, generations))

    return asyncio.run(run())


def test_a_held_answer_costs_no_step_before_it_begins_and_none_where_it_is_cancelled(model: Model) -> None:
    async def run() -> tuple[int, int, str, int]:
        async with worker_of(model) as worker:
            held, cancelled = [await worker.submit(job_of(), held=True) for _ in range(2)]
            cancelled.cancel()
            await asyncio.sleep(0.05)
            before = worker.statistics().prompt_tokens
            for one in (cancelled, held, held):
                one.begin()
            end, after = (await outcome_of(held)).end, worker.statistics()
            return before, after.cancelled, end.reason, after.prompt_tokens - end.prompt_tokens

    assert asyncio.run(run()) == (0, 0, "length", 0)


def test_the_text_of_a_prompt_does_not_stay_in_memory_while_its_answer_waits(model: Model) -> None:
    class Text(str):
        __slots__ = ("__weakref__",)

    async def run() -> bool:
        async with worker_of(model) as worker:
            text = Text("颜色")
            found = weakref.ref(text)
            held = await worker.submit(replace(job_of(), messages=({"role": "user", "content": text},), text=None), held=True)
            del text
            gc.collect()
            is_gone = found() is None
            held.begin()
            assert (await outcome_of(held)).end.reason == "length"
            return is_gone

    assert asyncio.run(run())


class TestSchedules:
    @pytest.mark.parametrize("family", ["ChatGLM-6B", pytest.param("BLOOM", marks=pytest.mark.long), "Qwen3"])
    def test_an_answer_is_the_one_of_generate_whoever_joins_and_leaves(self, family: str, tmp_path: Path) -> None:
        assert schedules(family, tmp_path, range(5)) > 12

    @pytest.mark.long
    @pytest.mark.parametrize("family", [*FAMILIES, *OTHER_CLASSES])
    def test_also_in_a_thousand_schedules(self, family: str, tmp_path: Path) -> None:
        assert schedules(family, tmp_path, range(1000)) > 2500


class TestAnswers:
    def test_two_models_answer_one_question_side_by_side(self, model: Model) -> None:
        jobs = [job_of("颜色", model=name) for name in ("base", "long", "wide")]

        texts = [outcome.text for outcome in answers(model, jobs)]

        assert texts == [alone(model, job)[1] for job in jobs]
        assert len({*texts}) == 3

    def test_a_stop_text_is_never_shown_not_even_its_beginning(self, model: Model) -> None:
        whole = alone(model, job_of("颜色", max_new_tokens=30))[1]
        stop = whole[5:8]
        (outcome,) = answers(model, [job_of("颜色", max_new_tokens=30, stop=(stop,))])

        assert outcome.text == whole[: whole.index(stop)]
        assert outcome.end.reason == "stop"
        assert all(not isinstance(event, TextDelta) or len(event.text) <= len(outcome.text) for event in outcome.events)

    def test_a_seed_gives_the_same_answer_again(self, model: Model) -> None:
        jobs = [job_of("颜色", temperature=1.0, seed=seed, max_new_tokens=20) for seed in (1, 1, 2)]

        first, again, other = answers(model, jobs)

        assert (first.text == again.text, first.text == other.text) == (True, False)

    def test_every_token_has_its_log_probability_and_the_most_probable_ones_if_asked(self, model: Model) -> None:
        plain, asked = answers(model, [job_of("颜色"), job_of("颜色", top_logprobs=3)])
        chosen = [token for event in plain.events if isinstance(event, TextDelta) for token in event.tokens]
        detailed = [token for event in asked.events if isinstance(event, TextDelta) for token in event.tokens]

        assert all(token.log_prob < 0 and not token.top for token in chosen)
        assert [token.log_prob for token in detailed] == pytest.approx([token.log_prob for token in chosen], abs=1e-4)
        assert all(len(token.top) == 3 and token.top[0].id == token.id and token.top[0].utf8 == token.utf8 for token in detailed)

    def test_without_a_limit_the_answer_ends_where_the_context_does(self, model: Model) -> None:
        asked = [job_of("颜色", max_new_tokens=most) for most in (None, 2**31)]

        for outcome in answers(model, asked):
            assert outcome.end.reason == "length"
            assert outcome.end.prompt_tokens + outcome.end.new_tokens == 256

    def test_a_text_is_continued_without_a_template(self, model: Model) -> None:
        (outcome,) = answers(model, [Job("base", "ann", text="这件上衣", max_new_tokens=6)])

        assert outcome.ids == model.generate([model.prompt_of_text("这件上衣")], 6, adapters=["base"])[0]


class TestRefusals:
    @pytest.mark.parametrize(
        ("job", "kind", "sentence"),
        [
            (job_of(model="nobody"), "model_not_found", "there is no model nobody. There are: base, short, long, narrow, wide."),
            (job_of("白" * 400), "context_length_exceeded", "and prompt and answer together may have 256. Shorten it"),
            (job_of(temperature=-1), "invalid", "temperature: must be 0 or more"),
            (job_of(max_new_tokens=0), "invalid", "max_new_tokens: must be at least 1"),
            (job_of(stop=("",)), "invalid", "a stop text is empty"),
            (job_of(messages=({"role": "nobody", "content": "a"},)), "invalid", "role"),
            (job_of(messages=()), "invalid", "at least one message"),
            (job_of("\ud800"), "invalid", "surrogate"),
            (Job("base", "ann"), "invalid", "give either messages or a text"),
        ],
        ids=str,
    )
    def test_a_job_that_cannot_be_answered_is_refused_at_once(self, model: Model, job: Job, kind: str, sentence: str) -> None:
        with pytest.raises(RefusedError, match=sentence) as caught:
            answers(model, [job])

        assert caught.value.kind == kind

    def test_a_prompt_is_counted_also_where_it_does_not_fit(self, model: Model) -> None:
        async def run() -> tuple[int, int]:
            async with worker_of(model) as worker:
                with pytest.raises(RefusedError, match="there is no model nobody"):
                    await worker.count(job_of(model="nobody"))
                return await worker.count(job_of("白")), await worker.count(job_of("白" * 401))

        short, long = asyncio.run(run())

        assert long == short + 400

    def test_nothing_of_a_conversation_is_left_out_in_silence(self, model: Model) -> None:
        turns = tuple({"role": role, "content": "白色上衣" * 6} for _ in range(10) for role in ("user", "assistant"))
        with pytest.raises(RefusedError) as caught:
            answers(model, [job_of(messages=(*turns, {"role": "user", "content": "好"}))])

        assert caught.value.kind == "context_length_exceeded"
        assert "together may have 256" in caught.value.message.english

    def test_a_full_queue_says_when_to_come_back(self, model: Model) -> None:
        async def run() -> RefusedError:
            async with worker_of(model, Limits(slots=1, waiting=4)) as worker:
                for number in range(5):
                    await worker.submit(job_of(owner=f"owner {number}", max_new_tokens=200))
                    await asyncio.sleep(0.01)
                with pytest.raises(RefusedError, match="4 requests wait already") as caught:
                    await worker.submit(job_of(owner="late"))
                return caught.value

        refusal = asyncio.run(run())

        assert refusal.kind == "queue_full"
        assert refusal.retry_after is not None
        assert refusal.retry_after >= 1

    def test_one_owner_cannot_fill_the_queue(self, model: Model) -> None:
        async def run() -> Outcome:
            async with worker_of(model, Limits(slots=1, waiting=8)) as worker:
                with pytest.raises(RefusedError, match="2 of them yours"):
                    for _ in range(5):
                        await worker.submit(job_of(max_new_tokens=200))
                        await asyncio.sleep(0.01)
                generation = await worker.submit(job_of(owner="bob"))
                generation.cancel()
                return await outcome_of(generation)

        assert asyncio.run(run()).end.reason == "cancelled"


class TestFairness:
    def test_an_owner_with_many_jobs_delays_another_by_no_more_than_a_turn(self, model: Model) -> None:
        async def run() -> list[str]:
            ended: list[str] = []
            async with worker_of(model, Limits(slots=1, waiting=400)) as worker:

                async def one(job: Job) -> None:
                    await outcome_of(await worker.submit(job))
                    ended.append(job.owner)

                many = [asyncio.create_task(one(job_of(owner="many", concurrency=2, max_new_tokens=3))) for _ in range(50)]
                await asyncio.sleep(0.02)
                before = len(ended)
                await one(job_of(owner="few", max_new_tokens=3))
                between = ended[before:]
                await asyncio.gather(*many)
            return between

        assert len(asyncio.run(run())) <= 4  # what ran, one more turn, and what ended while the prompt was encoded

    def test_an_owner_has_no_more_answers_at_a_time_than_it_may(self, model: Model) -> None:
        async def run() -> int:
            most = 0
            async with worker_of(model, Limits(slots=8)) as worker:
                generations = [await worker.submit(job_of(concurrency=2, max_new_tokens=12)) for _ in range(6)]
                tasks = [asyncio.create_task(outcome_of(generation)) for generation in generations]
                while not all(task.done() for task in tasks):
                    most = max(most, worker.statistics().running)
                    await asyncio.sleep(0.001)
            return most

        assert asyncio.run(run()) == 2


class TestCancels:
    def test_before_during_and_after(self, model: Model) -> None:
        async def run() -> tuple[list[Outcome], Outcome]:
            async with worker_of(model, Limits(slots=1)) as worker:
                running = await worker.submit(job_of(max_new_tokens=200))
                waiting = await worker.submit(job_of(owner="bob"))
                healthy = await worker.submit(job_of(owner="eve"))
                first = await outcome_of(waiting, cancel_after=1)
                second = await outcome_of(running, cancel_after=2)
                third = await outcome_of(healthy)
                healthy.cancel()
                return [first, second], third

        cancelled, healthy = asyncio.run(run())

        assert [outcome.end.reason for outcome in cancelled] == ["cancelled", "cancelled"]
        assert healthy.text == alone(model, job_of())[1]

    def test_one_that_comes_after_the_end_leaves_the_next_answer_alone(self, model: Model) -> None:
        async def run() -> tuple[str, int, int]:
            async with worker_of(model, Limits(slots=2, kv_tokens=60)) as worker:
                narrow = [await worker.submit(job_of(owner=owner, max_new_tokens=10), held=True) for owner in ("ann", "bob")]
                wide = await worker.submit(job_of(owner="eve", concurrency=1, max_new_tokens=40), held=True)
                for one in (*narrow, wide):
                    one.begin()
                until = time.monotonic() + 30
                while [one.owner for one in [*worker._running.values()]] != ["eve"] and time.monotonic() < until:
                    time.sleep(0.001)  # the event loop is busy, and knows of no end yet
                assert not narrow[0].ended
                narrow[0].cancel()
                end = (await asyncio.wait_for(outcome_of(wide), 30)).end
                return end.reason, end.new_tokens, worker.statistics().kv_tokens

        assert asyncio.run(run()) == ("length", 40, 0)

    def test_a_thousand_leave_nothing_behind(self, model: Model) -> None:
        threads = threading.active_count()

        async def run() -> tuple[int, ...]:
            async with worker_of(model, Limits(waiting=10_000)) as worker:
                for round_number in range(20):
                    generations = [
                        await worker.submit(job_of(owner=f"owner {number}", model=("base", "long", "wide")[number % 3], max_new_tokens=100))
                        for number in range(50)
                    ]
                    for number, generation in enumerate(generations):
                        if (number + round_number) % 3 == 0:
                            await anext(generation)
                        generation.cancel()
                (end,) = await asyncio.gather(outcome_of(await worker.submit(job_of())))
                statistics = worker.statistics()
                assert end.text == alone(model, job_of())[1]
                return statistics.waiting, statistics.running, statistics.kv_tokens, statistics.cancelled, len(worker._open)

        assert asyncio.run(run()) == (0, 0, 0, 1000, 0)
        gc.collect()
        assert users(model) == 0
        assert threading.active_count() <= threads  # one of another test may have ended


class TestFaults:
    def test_after_an_error_in_a_step_every_answer_is_what_it_would_have_been(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        states: list[bool] = []
        jobs = [job_of(owner="a", model="wide"), job_of("颜色", owner="b", temperature=1.0, seed=5)]

        async def run() -> tuple[list[Outcome], int]:
            async with worker_of(model) as worker:
                fail_once(monkeypatch, torch.OutOfMemoryError("out of memory"), lambda: states.append(worker.ready()))
                generations = [await worker.submit(job) for job in jobs]
                outcomes = await asyncio.gather(*map(outcome_of, generations))
                assert worker.ready()
                return outcomes, worker.statistics().restarts

        outcomes, restarts = asyncio.run(run())

        assert [(outcome.ids, outcome.text) for outcome in outcomes] == [alone(model, job) for job in jobs]
        assert (restarts, states, users(model)) == (1, [False], 0)

    @pytest.mark.parametrize("fails_at", [0, 3], ids=["at its prompt", "at its fourth token"])
    def test_a_request_that_breaks_every_step_harms_no_other(self, model: Model, fails_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
        poison, seed = job_of("毒", owner="mallory", max_new_tokens=30), range(4)
        jobs = [job_of("白" * number, f"owner {number}", temperature=1.0, seed=number, max_new_tokens=12) for number in seed]
        poison_ids = request_for(poison, mounted_models(model)[0]).ids
        step = Decoder.step

        def failing(decoder: Decoder) -> list[Token]:
            if any(one.request.ids == poison_ids and one.count >= fails_at for one in (*decoder._waiting, *decoder._running)):
                raise RuntimeError("an assertion of the device failed")
            return step(decoder)

        monkeypatch.setattr(Decoder, "step", failing)

        async def run() -> tuple[list[Outcome], Outcome]:
            async with worker_of(model) as worker:
                early = [asyncio.create_task(outcome_of(await worker.submit(job))) for job in jobs[:3]]
                bad = asyncio.create_task(outcome_of(await worker.submit(poison)))
                late = [asyncio.create_task(outcome_of(await worker.submit(job))) for job in jobs[3:]]
                return await asyncio.gather(*early, *late), await bad

        outcomes, bad = asyncio.run(run())

        assert (bad.end.reason, bad.end.kind, len(bad.ids)) == ("error", "unavailable", fails_at)
        assert [(outcome.ids, outcome.text) for outcome in outcomes] == [alone(model, job) for job in jobs]
        assert users(model) == 0

    def test_one_that_never_works_again_refuses_what_comes(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        async def run() -> tuple[Outcome, RefusedError, Outcome]:
            async with worker_of(model) as worker:
                monkeypatch.setattr(Decoder, "step", _fail)
                failed = await outcome_of(await worker.submit(job_of()))
                while True:
                    try:
                        await outcome_of(await worker.submit(job_of()))
                    except RefusedError as error:
                        refusal = error
                        break
                assert not worker.ready()
                monkeypatch.undo()
                while not worker.ready():
                    await asyncio.sleep(0.01)
                return failed, refusal, await outcome_of(await worker.submit(job_of()))

        failed, refusal, healthy = asyncio.run(run())

        assert (failed.end.kind, refusal.kind, healthy.end.error) == ("unavailable", "unavailable", None)

    def test_numbers_that_are_not_finite_end_their_answer_alone(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        compute = model.network.logits
        poisoned = alone(model, job_of("颜色"))[0][0]

        def logits(hidden: torch.Tensor) -> torch.Tensor:
            values = compute(hidden)
            values[values.argmax(-1) == poisoned] = float("nan")
            return values

        healthy = [job_of("白", owner="bob", max_new_tokens=2, model=name) for name in model.adapters.names]
        good_job, expected = next((job, answer) for job in healthy if poisoned not in (answer := alone(model, job))[0])
        monkeypatch.setattr(model.network, "logits", logits)
        bad, good = answers(model, [job_of("颜色"), good_job])

        assert (bad.end.reason, bad.end.kind) == ("error", None)
        assert bad.end.error is not None
        assert "not finite" in bad.end.error.english
        assert (good.ids, good.text) == expected

    def test_a_request_that_the_decoder_refuses_fails_alone(self, model: Model) -> None:
        async def run() -> list[Outcome]:
            mounted = [*mounted_models(model, model.adapters.names)]
            mounted[1] = type(mounted[1])(mounted[1].info, model, "gone")
            worker = Worker(mounted)
            generations = [await worker.submit(job_of(model=name)) for name in ("short", "base")]
            outcomes = await asyncio.gather(*map(outcome_of, generations))
            await worker.close(0)
            return outcomes

        refused, healthy = asyncio.run(run())

        assert (refused.end.reason, refused.end.kind) == ("error", "invalid")
        assert healthy.text == alone(model, job_of())[1]

    def test_a_step_that_hangs_ends_what_runs_and_waits_until_it_comes_back(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        go_on = threading.Event()
        step = Decoder.step

        def slow(decoder: Decoder) -> list[Token]:
            go_on.wait()
            return step(decoder)

        async def run() -> tuple[list[Outcome], RefusedError, Outcome, int]:
            async with worker_of(model, Limits(slots=1, hang_seconds=0.05)) as worker:
                monkeypatch.setattr(Decoder, "step", slow)
                generations = [await worker.submit(job_of(owner=owner)) for owner in "ab"]
                ended = await asyncio.gather(*map(outcome_of, generations))
                with pytest.raises(RefusedError, match="has not moved") as caught:
                    await worker.submit(job_of())
                assert not worker.ready()
                go_on.set()
                while not worker.ready():
                    await asyncio.sleep(0.005)
                return ended, caught.value, await outcome_of(await worker.submit(job_of())), len(worker._open)

        ended, refused, later, left = asyncio.run(run())

        assert {(outcome.end.reason, outcome.end.kind, outcome.text) for outcome in ended} == {("error", "unavailable", "")}
        assert (refused.kind, later.text, left, users(model)) == ("unavailable", alone(model, job_of())[1], 0, 0)

    @pytest.mark.parametrize("seed", range(2))
    def test_every_generation_ends_once_whatever_goes_wrong(self, model: Model, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = random.Random(seed)
        step = Decoder.step

        def sometimes(decoder: Decoder) -> list[Token]:
            if rng.random() < 0.1:
                raise rng.choice((RuntimeError("device"), MemoryError(), ValueError("odd"), torch.OutOfMemoryError("full")))
            return step(decoder)

        monkeypatch.setattr(Decoder, "step", sometimes)

        async def run() -> list[Ended]:
            ends = []
            async with worker_of(model, Limits(slots=4)) as worker:
                jobs = [random_job(rng, model.adapters.names) for _ in range(30)]
                outcomes = await asyncio.wait_for(run_some(worker, jobs, rng), 30)
                ends = [outcome.end for outcome in outcomes]
                assert len(worker._open) == 0
            return ends

        ends = asyncio.run(run())

        assert len(ends) > 15
        assert users(model) == 0


def _fail(_decoder: Decoder) -> list[Token]:
    raise RuntimeError("broken")


class TestClosing:
    def test_what_runs_may_end_and_what_waits_is_told(self, model: Model) -> None:
        async def run() -> list[Outcome]:
            worker = Worker(mounted_models(model), Limits(slots=1))
            generations = [await worker.submit(job_of(owner=owner, max_new_tokens=100)) for owner in "ab"]
            await anext(generations[1])
            await worker.close(10)
            with pytest.raises(RefusedError, match="being stopped"):
                await worker.submit(job_of())
            assert not worker.ready()
            return await asyncio.gather(*map(outcome_of, generations))

        running, waiting = asyncio.run(run())

        assert running.text == alone(model, job_of(max_new_tokens=100))[1]
        assert (waiting.end.reason, waiting.end.kind) == ("error", "unavailable")

    def test_after_the_grace_every_generation_has_ended(self, model: Model) -> None:
        async def run() -> list[Outcome]:
            worker = Worker(mounted_models(model))
            generations = [await worker.submit(job_of(owner=str(number), max_new_tokens=240)) for number in range(20)]
            await worker.close(0.02)
            return await asyncio.gather(*map(outcome_of, generations))

        assert {outcome.end.kind for outcome in asyncio.run(run())} == {"unavailable"}
        assert users(model) == 0
