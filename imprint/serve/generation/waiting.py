"""How many jobs may wait, for how long they do, and which position in the queue each is sent."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Protocol, TypeVar

from imprint.messages import Bilingual
from imprint.serve.generation.fair_queue import FairQueue, Waiter
from imprint.serve.generation.job import Job, RefusedError

OWNER_SHARE: Final = 4
"""No owner, nor all guests from one address, have more than one in so many places of the queue."""
RETRY_SECONDS: Final = (1.0, 60.0)
"""Least and most seconds after which another try is worth it."""
REMEMBERED_SECONDS: Final = 600.0
"""How long it is remembered how long an answer waited."""
MAX_REMEMBERED: Final = 1024
FEW: Final = 20
"""Fewer answers say nothing about the others."""


class PositionedWaiter(Waiter, Protocol):
    """A job whose reader is sent its position in the queue."""

    position: int | None
    """The position that was sent last."""


W = TypeVar("W", bound=Waiter)
P = TypeVar("P", bound=PositionedWaiter)


class Times:
    """How long answers take and wait, of late. It takes no lock: the caller has one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answer_seconds = 2.0
        self._waits: deque[tuple[float, float]] = deque(maxlen=MAX_REMEMBERED)
        """When an answer began, and the seconds for which it had waited."""
        self._full: deque[tuple[float, float]] = deque()
        """When a second began in which the cache was full, and how much of it."""
        self._full_since: float | None = None

    def note_answer(self, seconds: float) -> None:
        """Take an answer that has ended into the moving average."""
        self._answer_seconds += (seconds - self._answer_seconds) / 16

    def note_wait(self, seconds: float) -> None:
        """Remember how long an answer waited that begins now."""
        self._waits.append((self._clock(), seconds))

    def note_full(self, *, full: bool) -> None:
        """Note whether the cache has no room for the next answer from now on."""
        now = self._clock()
        if self._full_since is not None:
            begun, before = self._full.pop() if self._full and self._full_since - self._full[-1][0] < 1 else (self._full_since, 0.0)
            self._full.append((begun, before + now - self._full_since))
        while self._full and self._full[0][0] < now - REMEMBERED_SECONDS:
            self._full.popleft()
        self._full_since = now if full else None

    def full_share(self) -> float:
        """For which share of the last ten minutes the cache was full."""
        since = self._clock() - REMEMBERED_SECONDS
        return min(1.0, sum(seconds for begun, seconds in self._full if begun >= since) / REMEMBERED_SECONDS)

    def until_free(self, waiting: int, slots: int) -> float:
        """Seconds that the queue will take, about."""
        shortest, longest = RETRY_SECONDS
        return min(max(self._answer_seconds * waiting / max(slots, 1), shortest), longest)

    def wait_p95(self) -> float:
        """The 95th percentile of the seconds that the answers begun in the last ten minutes had waited; 0 where there were few."""
        since = self._clock() - REMEMBERED_SECONDS
        waits = sorted(seconds for begun, seconds in self._waits if begun >= since)
        return waits[len(waits) * 95 // 100] if len(waits) >= FEW else 0.0


class IncomingJobs:
    """Jobs whose prompts are being encoded or counted, before they are queued: one at a time of each turn.

    A long prompt may take a second to encode, in one thread for all owners. It belongs to one event loop at a time.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        """Turn -> its jobs."""
        self._locks: dict[str, asyncio.Lock] = {}
        self._less_important: deque[asyncio.Event] = deque()
        """Where those wait who matter less, the first of whom has its turn."""

    def __len__(self) -> int:
        """Number of jobs."""
        return self._counts.total()

    def count(self, turn: str) -> int:
        """Number of a turn's jobs."""
        return self._counts[turn]

    @asynccontextmanager
    async def slot(self, turn: str) -> AsyncIterator[None]:
        """Count one more job of a turn; the block begins when no other job of it is in one."""
        self._counts[turn] += 1
        try:
            async with self._locks.setdefault(turn, asyncio.Lock()):
                yield
        finally:
            self._counts[turn] -= 1
            if not self._counts[turn]:
                del self._counts[turn], self._locks[turn]

    @asynccontextmanager
    async def turn_to_encode(self, job: Job) -> AsyncIterator[None]:
        """The block begins at once, but of those who matter less, such as guests, one by one: the others wait for one of them at most."""
        if not job.gives_way:
            yield
            return
        turn = asyncio.Event()
        self._less_important.append(turn)
        try:
            self._less_important[0].set()
            await turn.wait()
            yield
        finally:
            self._less_important.remove(turn)
            if self._less_important:
                self._less_important[0].set()


def refuse_if_full(queue: FairQueue[W], job: Job, most: int, *, incoming: IncomingJobs, seconds: float) -> None:
    """Raise RefusedError where this job may not wait.

    `most`: jobs that may wait; `incoming`: jobs that will be queued; `seconds`: until the queue is free.
    """
    waiting, own = len(queue) + len(incoming), queue.waiting_of(job.turn) + incoming.count(job.turn)
    limit = max(1, int(most * job.queue_share))
    if waiting < limit and own < max(1, limit // OWNER_SHARE):
        return
    message = Bilingual(
        f"{waiting} requests wait already, {own} of them yours. Try again in {seconds:.0f} seconds.",
        f"已有 {waiting} 个请求在排队，其中 {own} 个是您的：请 {seconds:.0f} 秒后再试。",
    )
    raise RefusedError("queue_full", message, retry_after=seconds)


def moved_up(queue: FairQueue[P]) -> list[tuple[P, int]]:
    """The jobs whose position in the queue was not sent yet, or is smaller than the one that was; each with its position."""
    moved = []
    for position, job in enumerate(queue.in_order(), start=1):
        if job.position is None or position < job.position:
            job.position = position
            moved.append((job, position))
    return moved
