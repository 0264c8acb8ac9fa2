import asyncio

import pytest

from imprint.model import Model
from imprint.serve.generation.worker import Limits, Worker
from tests.serve.generation.workers import job_of, model_of, worker_of
from tests.serve.outcomes import Outcome, outcome_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return model_of("ChatGLM2-6B", tmp_path_factory.mktemp("worker"))


def test_no_more_answers_run_than_the_cache_has_room_for(model: Model) -> None:
    async def run() -> tuple[int, list[Outcome], float]:
        most = 0
        async with worker_of(model, Limits(slots=8, kv_tokens=100)) as worker:
            jobs = [job_of(owner=f"owner {number}", max_new_tokens=20 + 60 * (number == 3)) for number in range(8)]
            tasks = [asyncio.create_task(outcome_of(await worker.submit(job))) for job in jobs]
            while not all(task.done() for task in tasks):
                most = max(most, worker.statistics().kv_tokens)
                await asyncio.sleep(0.001)
            return most, [task.result() for task in tasks], worker.statistics().full_share

    most, outcomes, full_share = asyncio.run(run())

    assert 40 < most <= 100
    assert 0 < full_share < 0.2
    assert all(outcome.end.reason in {"stop", "length"} for outcome in outcomes)


@pytest.mark.parametrize("beside_others", [False, True])
def test_a_long_answer_leaves_room_for_many_short_ones(model: Model, *, beside_others: bool) -> None:
    async def most_of(worker: Worker) -> int:
        most = 0
        jobs = [job_of(owner=f"owner {number}", max_new_tokens=10) for number in range(8)]
        tasks = [asyncio.create_task(outcome_of(await worker.submit(job))) for job in jobs]
        while not all(task.done() for task in tasks):
            most = max(most, worker.statistics().running)
            await asyncio.sleep(0.001)
        return most

    async def run() -> tuple[int, int]:
        async with worker_of(model, Limits(slots=9, kv_tokens=300)) as worker:
            beside = await worker.submit(job_of(owner="eve", max_new_tokens=15), held=True)
            before = await most_of(worker)
            long = await worker.submit(job_of(max_new_tokens=140))
            if beside_others:
                beside.begin()
            await outcome_of(long, cancel_after=2)
            return before, await most_of(worker)

    before, after = asyncio.run(run())

    assert before == 8
    assert after >= 8
