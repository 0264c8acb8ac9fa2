"""Workers over tiny bases with adapters, jobs for them, and the answers that `generate` gives to the same requests alone."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

import imprint
from imprint.inference.decoder import Decoder
from imprint.inference.request import Token
from imprint.model import Model
from imprint.serve.generation.answer import MountedModel, request_for
from imprint.serve.generation.job import Job, ModelInfo, RefusedError
from imprint.serve.generation.worker import Limits, Worker
from tests.bases import base_of
from tests.inference.schedules import adapters_of
from tests.serve.outcomes import Outcome, outcome_of

LETTERS = "这件上衣的颜色是白好你版型宽松"


def mounted_models(model: Model, names: tuple[str, ...] = ()) -> list[MountedModel]:
    """The base and its mounted adapters."""
    length = model.network.shape.max_length
    return [
        MountedModel(ModelInfo(name, "tiny", None if name == "base" else "base", length, supports_tools=False), model, name)
        for name in ("base", *names)
    ]


def model_of(family: str, folder: Path, *, adapters: bool = False) -> Model:
    """A tiny model, with two prefixes and two LoRAs mounted if `adapters`."""
    base = base_of(family, folder / "base", std=0.3)
    mounted = adapters_of(base, folder / "adapters") if adapters else {}
    model = imprint.load(base, device="cpu")
    for name, path in mounted.items():
        model.mount(name, path)
    return model


@contextlib.asynccontextmanager
async def worker_of(model: Model, limits: Limits | None = None) -> AsyncIterator[Worker]:
    """A worker that is closed at the end."""
    worker = Worker(mounted_models(model, model.adapters.names), limits)
    try:
        yield worker
    finally:
        await worker.close(0)


def users(model: Model) -> int:
    """Requests that hold an adapter."""
    return sum(model.adapters._users.values())


def job_of(text: str = "你好", owner: str = "ann", **settings: object) -> Job:
    """A conversation of one message."""
    return replace(Job("base", owner, messages=({"role": "user", "content": text},), concurrency=8, max_new_tokens=8), **settings)  # type: ignore[arg-type]


def random_job(rng: random.Random, names: tuple[str, ...]) -> Job:
    """Any job with a reproducible answer."""
    text = "".join(rng.choices(LETTERS, k=rng.randint(1, 12)))
    settings = rng.choice(({}, {}, {"temperature": 0.9, "top_p": 0.8, "seed": rng.randrange(9)}, {"repetition_penalty": 1.3}))
    owner, concurrency = f"owner {rng.randrange(4)}", rng.choice((1, 2, 8))
    model = rng.choice(("base", *names))
    return job_of(text, owner, model=model, concurrency=concurrency, max_new_tokens=rng.randint(1, 10), **settings)


def alone(model: Model, job: Job) -> tuple[list[int], str]:
    """The ids and the text of a job's answer by `generate`."""
    (mounted,) = (one for one in mounted_models(model, model.adapters.names) if one.info.id == job.model)
    request = request_for(job, mounted)
    (ids,) = model.generate(
        [list(request.ids)],
        request.max_new_tokens,
        request.temperature,
        request.top_p,
        seed=request.seed,
        top_k=request.top_k,
        repetition_penalty=request.repetition_penalty,
        stop=request.stop,
        adapters=[request.adapter],
    )
    text = model.answer_text(request.stop)
    for token in ids:
        text.push(token)
    return ids, text.finish()


async def run_schedule(worker: Worker, jobs: list[Job], rng: random.Random) -> list[tuple[Outcome, bool]]:
    """Let jobs come at random times and cancel some at random events; each outcome, and whether it was cancelled by us."""

    async def one(job: Job) -> tuple[Outcome, bool]:
        await asyncio.sleep(rng.random() * 0.03)
        cancel_after = rng.choice((None, None, None, 0, 1, 3))
        return await outcome_of(await worker.submit(job), cancel_after=cancel_after), cancel_after is not None

    return await asyncio.gather(*(one(job) for job in jobs))


def schedules(family: str, folder: Path, seeds: range) -> int:
    """Run random schedules; returns how many answers were compared."""
    model = model_of(family, folder, adapters=True)
    pool = [random_job(random.Random(seed), model.adapters.names) for seed in range(30)]
    expected = [alone(model, job) for job in pool]

    async def run(seed: int) -> int:
        rng, compared = random.Random(seed), 0
        limits = Limits(slots=rng.randint(1, 6), prefill_chunk_tokens=rng.choice((3, 8, 512)), kv_tokens=rng.choice((40, 2**17)))
        chosen = rng.sample(range(len(pool)), rng.randint(3, 9))
        async with worker_of(model, limits) as worker:
            outcomes = await run_schedule(worker, [pool[row] for row in chosen], rng)
        for row, (outcome, cancelled) in zip(chosen, outcomes, strict=True):
            ids, text = expected[row]
            if outcome.end.reason == "cancelled":
                assert cancelled
                assert outcome.ids == ids[: len(outcome.ids)]
                assert text.startswith(outcome.text)
            else:
                assert (outcome.ids, outcome.text) == (ids, text), pool[row]
                assert (outcome.end.new_tokens, outcome.end.error) == (len(ids), None)
                compared += 1
        return compared

    compared = sum(asyncio.run(run(seed)) for seed in seeds)
    assert users(model) == 0
    return compared


async def run_some(worker: Worker, jobs: list[Job], rng: random.Random) -> list[Outcome]:
    """As `run_schedule`, without the jobs that are refused."""

    async def one(job: Job) -> Outcome | None:
        await asyncio.sleep(rng.random() * 0.05)
        try:
            return await outcome_of(await worker.submit(job), cancel_after=rng.choice((None, None, 1, 2)))
        except RefusedError:
            return None

    return [outcome for outcome in await asyncio.gather(*map(one, jobs)) if outcome is not None]


def fail_once(monkeypatch: pytest.MonkeyPatch, error: Exception, after: Callable[[], None]) -> None:
    """The second step raises an error; `after` is called when the next decoder takes its first."""
    step, calls = Decoder.step, iter(range(10**6))

    def failing(decoder: Decoder) -> list[Token]:
        number = next(calls)
        if number == 1:
            raise error
        if number == 2:
            after()
        return step(decoder)

    monkeypatch.setattr(Decoder, "step", failing)
