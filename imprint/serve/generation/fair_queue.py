"""Jobs that wait: owners take turns, none has more answers at a time than it may, and guests leave room for accounts."""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Generic, Protocol, TypeVar


class Waiter(Protocol):
    """What a queue must know of a job."""

    @property
    def owner(self) -> str:
        """Whose it is."""

    @property
    def concurrency(self) -> int:
        """Most answers of its owner at a time."""

    @property
    def turn(self) -> str:
        """Whose turn it takes: its owner's, or the one of all guests from an address, each of whom is an owner."""

    @property
    def gives_way(self) -> bool:
        """Whether it is a guest's, and leaves room for accounts."""


W = TypeVar("W", bound=Waiter)
Owners = OrderedDict[str, deque[W]]
"""The jobs of each owner that shares a turn; the first owner is next."""


class FairQueue(Generic[W]):
    """Jobs in the order in which they came for each owner, round robin over the turns and over the owners that share one.

    Guests never have all slots, if there are several, and while an account waits that may have an answer, two guests never begin one
    after the other.
    It takes no lock: the caller has one.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, Owners[W]] = OrderedDict()
        """Those who share each turn and have jobs; the first turn is next."""
        self._running: Counter[str] = Counter()
        self._running_guests = 0
        self._guest_was_last = False
        """Whether a guest was the last to begin."""
        self._order: tuple[W, ...] | None = None
        """All that wait, in order; None where it must be found anew. It is asked for at each step of the decoder."""

    def __len__(self) -> int:
        """Number of jobs that wait."""
        return sum(map(self.waiting_of, self._waiting))

    def waiting_of(self, turn: str) -> int:
        """Number of jobs that wait for a turn."""
        return sum(map(len, self._waiting.get(turn, {}).values()))

    def push(self, job: W) -> None:
        """Append a job to those of its owner; one that had none comes after all others."""
        self._order = None
        self._waiting.setdefault(job.turn, OrderedDict()).setdefault(job.owner, deque()).append(job)

    def remove(self, job: W) -> bool:
        """Take a job out; whether it waited."""
        owners = self._waiting.get(job.turn, OrderedDict[str, deque[W]]())
        jobs = owners.get(job.owner)
        if jobs is None or job not in jobs:
            return False
        self._order = None
        jobs.remove(job)
        if not jobs:
            del owners[job.owner]
        if not owners:
            del self._waiting[job.turn]
        return True

    def clear(self) -> Sequence[W]:
        """Take all out."""
        jobs, self._order = self.in_order(), None
        self._waiting.clear()
        return jobs

    def take(self, fits: Callable[[W], bool], *, slots: int, strict: bool = True) -> W | None:
        """The next job whose owner may have another answer now; it counts as running from here on. `slots`: answers at a time, of all.

        None where there is none, or, if `strict`, where that job does not fit: those behind it wait, so that a large one gets its turn.
        """
        firsts = [job for owners in self._waiting.values() if (job := self._first(owners)) is not None]
        account_waits = any(not job.gives_way and (strict or fits(job)) for job in firsts)
        without_guests = self._running_guests >= guest_slots(slots) or (self._guest_was_last and account_waits)
        for job in firsts:
            if job.gives_way and without_guests:
                continue
            if fits(job):
                self._begin(job)
                return job
            if strict:
                return None
        return None

    def ended(self, job: W) -> None:
        """Note that an answer has ended."""
        self._running_guests -= job.gives_way
        self._running[job.owner] -= 1
        if not self._running[job.owner]:
            del self._running[job.owner]

    def in_order(self) -> Sequence[W]:
        """All that wait, in the order of their turns as far as it is known now."""
        if self._order is None:
            self._order = self._found_order()
        return self._order

    def _found_order(self) -> tuple[W, ...]:
        jobs = _round_robin([_round_robin([*owners.values()]) for owners in self._waiting.values()])
        held, found, guest_was_last = deque[W](), list[W](), self._guest_was_last
        accounts = sum(not job.gives_way for job in jobs)
        for job in jobs:
            if job.gives_way:
                if held or (guest_was_last and accounts):
                    held.append(job)  # until the next account has begun
                    continue
            else:
                accounts -= 1
            found.append(job)
            guest_was_last = job.gives_way
            if held and not guest_was_last:
                found.append(held.popleft())
                guest_was_last = True
        return (*found, *held)

    def _first(self, owners: Owners[W]) -> W | None:
        """The next job of those who share a turn whose owner may have another answer now; None where there is none."""
        return next((jobs[0] for owner, jobs in owners.items() if self._running[owner] < jobs[0].concurrency), None)

    def _begin(self, job: W) -> None:
        """Take a job out that runs now; its owner comes behind those who share its turn, and this one behind the others."""
        self.remove(job)
        if (owners := self._waiting.get(job.turn)) is not None:
            self._waiting.move_to_end(job.turn)
            if job.owner in owners:
                owners.move_to_end(job.owner)
        self._running[job.owner] += 1
        self._running_guests += job.gives_way
        self._guest_was_last = job.gives_way


def guest_slots(slots: int) -> int:
    """Most slots that guests have at a time: all but a quarter, and all but one; of one slot they have it in turn with accounts."""
    return max(1, slots - max(1, slots // 4))


def _round_robin(lists: Sequence[Iterable[W]]) -> list[W]:
    """The first of each, then the second of each, and so on."""
    if len(lists) == 1:  # an account alone
        return [*lists[0]]
    return [job for turn in zip_longest(*lists) for job in turn if job is not None]
