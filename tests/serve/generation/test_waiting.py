import asyncio
from collections import Counter
from dataclasses import dataclass

import pytest

from imprint.serve.generation.fair_queue import FairQueue
from imprint.serve.generation.job import Job, RefusedError
from imprint.serve.generation.waiting import FEW, REMEMBERED_SECONDS, IncomingJobs, Times, moved_up, refuse_if_full


@dataclass(eq=False)
class Waiter:
    owner: str
    concurrency: int = 1
    position: int | None = None
    gives_way: bool = False

    @property
    def turn(self) -> str:
        return self.owner


def filled(*owners: str) -> FairQueue[Waiter]:
    queue: FairQueue[Waiter] = FairQueue()
    for owner in owners:
        queue.push(Waiter(owner))
    return queue


def test_a_full_queue_takes_no_job_and_one_owner_fills_a_quarter_of_it() -> None:
    queue = filled("a", "a", "b")
    refuse_if_full(queue, Job("base", "b"), 8, incoming=IncomingJobs(), seconds=3)
    with pytest.raises(RefusedError, match=r"3 requests wait already, 2 of them yours\. Try again in 3 seconds") as caught:
        refuse_if_full(queue, Job("base", "a"), 8, incoming=IncomingJobs(), seconds=3)
    assert (caught.value.kind, caught.value.retry_after) == ("queue_full", 3)
    incoming = incoming_of("d", "d", "d", "d", "c")
    with pytest.raises(RefusedError, match="8 requests wait already, 1 of them yours"):
        refuse_if_full(queue, Job("base", "c"), 8, incoming=incoming, seconds=3)
    with pytest.raises(RefusedError, match="5 requests wait already, 2 of them yours"):
        refuse_if_full(queue, Job("base", "b"), 8, incoming=incoming_of("b", "a"), seconds=3)


def test_a_guest_leaves_half_of_the_queue_to_the_others() -> None:
    queue = filled(*"abcd")
    refuse_if_full(queue, Job("base", "e"), 8, incoming=IncomingJobs(), seconds=3)
    with pytest.raises(RefusedError, match="4 requests wait already"):
        refuse_if_full(queue, Job("base", "e", queue_share=0.5), 8, incoming=IncomingJobs(), seconds=3)


def incoming_of(*owners: str) -> IncomingJobs:
    incoming = IncomingJobs()
    incoming._counts.update(owners)
    return incoming


def test_of_each_owner_one_job_is_looked_at_and_nothing_is_kept_of_those_that_have_come() -> None:
    incoming, inside, most = IncomingJobs(), Counter[str](), Counter[str]()

    async def come(owner: str) -> None:
        async with incoming.slot(owner):
            inside[owner] += 1
            most[owner] = max(most[owner], inside[owner])
            await asyncio.sleep(0)
            inside[owner] -= 1

    async def all_come() -> int:
        waiting = [asyncio.create_task(come(owner)) for owner in "aaab"]
        await asyncio.sleep(0)
        waiting[1].cancel()
        count = incoming.count("a")
        await asyncio.gather(*waiting, return_exceptions=True)
        return count

    assert asyncio.run(all_come()) == 3
    assert most == {"a": 1, "b": 1}
    assert (len(incoming), incoming._locks) == (0, {})


def test_prompts_of_guests_are_encoded_one_by_one_and_those_of_the_others_at_once() -> None:
    incoming, order = IncomingJobs(), list[str]()

    async def encode(owner: str, queue_share: float) -> None:
        async with incoming.turn_to_encode(Job("base", owner, queue_share=queue_share)):
            order.append(owner)
            await asyncio.sleep(0.01)
            order.append(owner)

    async def all_encode() -> None:
        guests = [asyncio.create_task(encode(f"guest {number}", 0.5)) for number in range(4)]
        await asyncio.sleep(0)
        guests[1].cancel()
        await asyncio.gather(*guests, encode("ann", 1.0), return_exceptions=True)

    asyncio.run(all_encode())
    assert order[:2] == ["guest 0", "ann"]
    assert [owner for owner in order if owner != "ann"] == [f"guest {number}" for number in (0, 0, 2, 2, 3, 3)]


def test_a_place_is_told_once_and_only_when_it_gets_smaller() -> None:
    queue = filled("a", "b", "c")
    assert [position for _, position in moved_up(queue)] == [1, 2, 3]
    assert moved_up(queue) == []
    queue.take(lambda _: True, slots=100)
    assert [(job.owner, position) for job, position in moved_up(queue)] == [("b", 1), ("c", 2)]


def test_the_wait_is_that_of_the_last_ten_minutes() -> None:
    now = 0.0
    times = Times(lambda: now)
    for seconds in range(FEW - 1):
        times.note_wait(seconds)
    assert times.wait_p95() == 0
    for _ in range(FEW):
        times.note_wait(30)
    assert times.wait_p95() == 30
    now = REMEMBERED_SECONDS + 1
    assert times.wait_p95() == 0


def test_the_cache_is_full_for_a_share_of_the_last_ten_minutes() -> None:
    now = 0.0
    times = Times(lambda: now)
    for now in range(240):
        times.note_full(full=now % 2 == 0)
    assert times.full_share() == 120 / REMEMBERED_SECONDS
    for _ in range(100):
        times.note_full(full=True)
        now += 0.5
    times.note_full(full=False)
    assert times.full_share() == 170 / REMEMBERED_SECONDS
    assert len(times._full) < 180
    now += REMEMBERED_SECONDS + 1
    assert times.full_share() == 0


def test_the_time_until_a_place_is_free_follows_the_answers() -> None:
    times = Times()
    assert times.until_free(0, 4) == 1
    for _ in range(100):
        times.note_answer(10)
    assert 9 < times.until_free(4, 4) < 10
    assert times.until_free(10_000, 4) == 60
