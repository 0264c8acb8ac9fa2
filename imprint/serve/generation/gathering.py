"""Jobs that come together are started together."""

import time
from collections.abc import Callable
from typing import Final

GATHER_SECONDS: Final = 0.02
"""How long what is queued waits at most for jobs that are about to be."""


class Gathering:
    """Lets what is queued wait a moment for jobs that are about to be, so that one pass runs all their prompts.

    It takes no lock: the caller has one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._expected: dict[object, float] = {}
        """Jobs that are encoded or held, and since when."""
        self._until = 0.0

    def expect(self) -> object:
        """A job that may be queued in a moment; what `forget` takes."""
        job = object()
        self._expected[job] = self._clock()
        return job

    def forget(self, job: object) -> None:
        """The job has been queued, or will not be; where nobody says so, it is expected no longer after a while."""
        self._expected.pop(job, None)

    def begin(self) -> None:
        """The first job of a queue that was empty is there."""
        self._until = self._clock() + GATHER_SECONDS

    def seconds_left(self) -> float:
        """How long what is queued still waits; 0 where no job is expected."""
        now = self._clock()
        self._expected = {job: since for job, since in self._expected.items() if since > now - 10 * GATHER_SECONDS}
        return max(0.0, self._until - now) if self._expected else 0.0
