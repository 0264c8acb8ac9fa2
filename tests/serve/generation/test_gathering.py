"""Jobs that are about to be queued together are run together, and nobody waits for one that never is."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from imprint.inference.decode_batch import DecodeBatch
from imprint.model import Model
from imprint.serve.generation import gathering
from tests.serve.generation.workers import job_of, model_of, worker_of
from tests.serve.outcomes import outcome_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return model_of("ChatGLM2-6B", tmp_path_factory.mktemp("worker"))


def test_one_pass_runs_the_prompts_of_jobs_that_begin_together(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "GATHER_SECONDS", 60.0)
    passes, join = [], DecodeBatch.join

    def counted(batch: DecodeBatch, prompts: Sequence[Sequence[int]], *others: Any) -> torch.Tensor:
        passes.append(len(prompts))
        return join(batch, prompts, *others)

    async def run() -> int:
        async with worker_of(model) as worker:
            held = [await worker.submit(job_of(), held=True) for _ in range(3)]
            held[0].begin()
            await asyncio.sleep(0.05)
            running = worker.statistics().running
            for one in held[1:]:
                one.begin()
            await asyncio.gather(*map(outcome_of, held))
            return running

    monkeypatch.setattr(DecodeBatch, "join", counted)
    assert asyncio.run(run()) == 0
    assert passes == [3]


def test_a_job_that_never_begins_keeps_nobody_waiting(model: Model) -> None:
    async def run() -> str:
        async with worker_of(model) as worker:
            _never, other = [await worker.submit(job_of(), held=True) for _ in range(2)]
            other.begin()
            return (await outcome_of(other)).end.reason

    assert asyncio.run(run()) == "length"


def test_nobody_waits_for_a_held_job_that_was_cancelled(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> str:
        async with worker_of(model) as worker:
            cancelled, other = [await worker.submit(job_of(), held=True) for _ in range(2)]
            cancelled.cancel()
            other.begin()
            return (await asyncio.wait_for(outcome_of(other), 50)).end.reason

    monkeypatch.setattr(gathering, "GATHER_SECONDS", 600.0)
    assert asyncio.run(run()) == "length"
