import random
from dataclasses import dataclass

from imprint.serve.generation.fair_queue import FairQueue, guest_slots


@dataclass(frozen=True)
class Waiter:
    owner: str
    number: int
    concurrency: int = 100
    address: str = ""
    """Of a guest: from where it comes."""

    @property
    def turn(self) -> str:
        return self.address or self.owner

    @property
    def gives_way(self) -> bool:
        return bool(self.address)


def guests(address: str, count: int, *, first: int = 0) -> list[Waiter]:
    """A job each of so many guests from one address."""
    return [Waiter(f"guest {address} {number}", number, 1, address) for number in range(first, first + count)]


def filled(*owners: str, concurrency: int = 100) -> FairQueue[Waiter]:
    queue: FairQueue[Waiter] = FairQueue()
    for number, owner in enumerate(owners):
        queue.push(Waiter(owner, number, concurrency))
    return queue


def take_all(queue: FairQueue[Waiter]) -> list[int]:
    taken = []
    while (job := queue.take(lambda _: True, slots=100)) is not None:
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

    assert queue.take(lambda job: job.number != 0, slots=100) is None
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
        elif (taken := queue.take(lambda _: True, slots=100)) is not None:
            for waiter, owners in passed.items():
                if waiter is not taken:
                    owners.append(taken.owner)
            owners = passed.pop(taken, [])
            assert len(owners) == len({*owners})


def test_a_job_whose_server_is_full_may_be_passed() -> None:
    queue = filled("a", "b", "a")

    taken = queue.take(lambda job: job.number != 0, slots=100, strict=False)

    assert taken is not None
    assert taken.number == 1
    assert queue.take(lambda job: job.number != 0, slots=100, strict=False) is None
    assert len(queue) == 2


def test_all_guests_from_one_address_have_one_turn_and_take_it_in_turn() -> None:
    queue: FairQueue[Waiter] = FairQueue()
    many = [*guests("x", 3), Waiter("guest x 0", 9, 2, "x")]
    for job in [*many, *guests("y", 1, first=5)]:
        queue.push(job)

    assert queue.waiting_of("x") == 4
    assert take_all(queue) == [0, 5, 1, 2, 9]


def test_guests_never_have_all_slots_of_several() -> None:
    assert [guest_slots(slots) for slots in (1, 2, 3, 4, 8, 64)] == [1, 1, 2, 3, 6, 48]
    queue: FairQueue[Waiter] = FairQueue()
    for number in range(60):
        queue.push(guests(f"address {number}", 1)[0])
    running = [job for _ in range(4) if (job := queue.take(lambda _: True, slots=4)) is not None]
    assert len(running) == 3

    queue.push(Waiter("account", 99))
    begun = queue.take(lambda _: True, slots=4)
    assert begun is not None
    assert begun.owner == "account"
    assert queue.take(lambda _: True, slots=4) is None
    queue.ended(running[0])
    assert queue.take(lambda _: True, slots=4) is not None


def test_of_one_slot_guests_from_very_many_addresses_and_an_account_have_it_in_turn() -> None:
    queue: FairQueue[Waiter] = FairQueue()
    for number in range(60):
        queue.push(guests(f"address {number}", 1)[0])
    for number in range(3):
        queue.push(Waiter("account", number))
    told, order = [job.gives_way for job in queue.in_order()], []
    while (job := queue.take(lambda _: True, slots=1)) is not None:
        order.append(job.gives_way)
        queue.ended(job)

    assert order == told == [True, False, True, False, True, False, *[True] * 57]


def test_an_account_that_may_have_no_further_answer_keeps_no_guest_waiting() -> None:
    queue: FairQueue[Waiter] = FairQueue()
    for job in (*guests("x", 1), *guests("y", 1), Waiter("account", 0, 1), Waiter("account", 1, 1)):
        queue.push(job)

    assert [job.turn for job in (queue.take(lambda _: True, slots=8) for _ in range(4)) if job is not None] == ["x", "account", "y"]


def test_an_account_whose_server_is_full_keeps_no_guest_waiting() -> None:
    queue: FairQueue[Waiter] = FairQueue()
    for job in (*guests("x", 1), *guests("y", 1), Waiter("account", 0)):
        queue.push(job)

    taken = [queue.take(lambda job: job.owner != "account", slots=8, strict=False) for _ in range(2)]
    assert [None if job is None else job.turn for job in taken] == ["x", "y"]
