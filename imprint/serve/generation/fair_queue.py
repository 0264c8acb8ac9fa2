"""Jobs that wait: owners take turns, and none has more answers at a time than it may."""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
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


W = TypeVar("W", bound=Waiter)


class FairQueue(Generic[W]):
    """Jobs in the order in which they came for each owner, round robin over the owners. It takes no lock: the caller has one."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[W]] = OrderedDict()
        """The jobs of each owner that has some; the first owner's turn is next."""
        self._running: Counter[str] = Counter()

    def __len__(self) -> int:
        """Number of jobs that wait."""
        return sum(map(len, self._waiting.values()))

    def waiting_of(self, owner: str) -> int:
        """Number of jobs of an owner that wait."""
        return len(self._waiting.get(owner, ()))

    def push(self, job: W) -> None:
        """Append a job to those of its owner; an owner that had none comes after all others."""
        self._waiting.setdefault(job.owner, deque()).append(job)

    def remove(self, job: W) -> bool:
        """Take a job out; whether it waited."""
        jobs = self._waiting.get(job.owner)
        if jobs is None or job not in jobs:
            return False
        jobs.remove(job)
        if not jobs:
            del self._waiting[job.owner]
        return True

    def clear(self) -> list[W]:
        """Take all out."""
        jobs = self.in_order()
        self._waiting.clear()
        return jobs

    def take(self, fits: Callable[[W], bool], *, strict: bool = True) -> W | None:
        """The next job whose owner may have another answer now; it counts as running from here on.

        None where there is none, or, if `strict`, where that job does not fit: those behind it wait, so that a large one gets its turn.
        """
        for owner, jobs in self._waiting.items():
            job = jobs[0]
            if self._running[owner] >= job.concurrency:
                continue
            if not fits(job):
                if strict:
                    return None
                continue
            jobs.popleft()
            del self._waiting[owner]
            if jobs:
                self._waiting[owner] = jobs  # behind the others
            self._running[owner] += 1
            return job
        return None

    def ended(self, job: W) -> None:
        """Note that an answer has ended."""
        self._running[job.owner] -= 1
        if not self._running[job.owner]:
            del self._running[job.owner]

    def in_order(self) -> list[W]:
        """All that wait, in the order of their turns as far as it is known now."""
        return [job for turn in zip_longest(*self._waiting.values()) for job in turn if job is not None]
