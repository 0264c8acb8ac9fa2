import random
from dataclasses import dataclass

from imprint.serve.generation.fair_queue import FairQueue


@dataclass(frozen=True)
class Waiter:
    owner: str
    number: int
    concurrency: int = 100


def filled(*owners: str, concurrency: int = 100) -> FairQueue[Waiter]:
    queue: FairQueue[Waiter] = FairQueue()
    for number, owner in enumerate(owners):
        queue.push(Waiter(owner, number, concurrency))
    return queue


def take_all(queue: FairQueue[Waiter]) -> list[int]:
    taken = []
    while (job := queue.take(lambda _: True)) is not None:
        taken.append(job.number)
    return taken


def test_owners_take_turns_and_each_has_its_jobs_in_order() -> None:
    queue = filled("a", "a", "a", "b", "b", "c")
    order = [job.number for job in queue.in_order()]

    assert take_all(queue) == order == [0, 3, 5, 1, 4, 2]
    assert len(queue) == 0


def test_an_owner_waits_while_it_has_as_many_answers_as_it_may() -> None:
    queue = filled("a", "a", "b", concurrency=1)

    assert take_all(queue) == [0, 2]
    queue.ended(Waiter("a", 0))
    assert take_all(queue) == [1]


def test_a_large_job_is_not_passed_by_those_behind_it() -> None:
    queue = filled("a", "b")

    assert queue.take(lambda job: job.number != 0) is None
    assert take_all(queue) == [0, 1]


def test_a_job_can_leave_once() -> None:
    queue = filled("a", "a", "b")
    jobs = queue.in_order()

    assert [queue.remove(jobs[0]), queue.remove(jobs[0])] == [True, False]
    assert (queue.waiting_of("a"), queue.waiting_of("c"), len(queue)) == (1, 0, 2)
    assert {job.number for job in queue.clear()} == {1, 2}
    assert len(queue) == 0


def test_nobody_is_passed_by_an_owner_twice_while_it_may_run() -> None:
    rng = random.Random(0)
    queue, passed, number = filled(), dict[Waiter, list[str]](), 0
    for _ in range(2000):
        if rng.random() < 0.5:
            job = Waiter(rng.choice("abcde"), number)
            number += 1
            if queue.waiting_of(job.owner) == 0:
                passed[job] = []
            queue.push(job)
        elif (taken := queue.take(lambda _: True)) is not None:
            for waiter, owners in passed.items():
                if waiter is not taken:
                    owners.append(taken.owner)
            owners = passed.pop(taken, [])
            assert len(owners) == len({*owners})


def test_a_job_whose_server_is_full_may_be_passed() -> None:
    queue = filled("a", "b", "a")

    taken = queue.take(lambda job: job.number != 0, strict=False)

    assert taken is not None
    assert taken.number == 1
    assert queue.take(lambda job: job.number != 0, strict=False) is None
    assert len(queue) == 2
