"""How often something may be tried: so many times in so many seconds, for each of many keys, in bounded memory."""

import threading
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final

CAPACITY: Final = 20_000
"""Keys that are remembered; of more, those that tried longest ago are forgotten. All tables of the service together stay below 20 MB."""


class Throttle:
    """Counts the last tries of each key, exactly, in a sliding window."""

    def __init__(self, most: int, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self.seconds = seconds
        self._clock = clock
        self._began = clock()
        self._tries: OrderedDict[int, array[float]] = OrderedDict()  # by hash: Python draws its key anew in each process
        self._lock = threading.Lock()

    def take(self, key: Hashable) -> float | None:
        """Count one try; None if it may go on, else the seconds until the next one may, and then it is not counted."""
        digest = hash(key)
        with self._lock:
            now = self._clock() - self._began
            recent = self._recent(digest, now)
            wait = self._wait(recent, now)
            if wait is None:
                recent.append(now)
            self._tries.pop(digest, None)
            self._tries[digest] = recent  # the latest
            if len(self._tries) > CAPACITY:
                self._tries.popitem(last=False)
        return wait

    def wait(self, key: Hashable) -> float | None:
        """What `take` would say, and nothing is counted."""
        with self._lock:
            now = self._clock() - self._began
            return self._wait(self._recent(hash(key), now), now)

    def give_back(self, key: Hashable) -> None:
        """Uncount the last try of a key: it was a right one."""
        with self._lock:
            if recent := self._tries.get(hash(key)):
                recent.pop()

    def count(self, key: Hashable) -> int:
        """The tries of a key that count now."""
        with self._lock:
            return len(self._recent(hash(key), self._clock() - self._began))

    def _recent(self, digest: int, now: float) -> "array[float]":
        return array("f", (at for at in self._tries.get(digest, ()) if at > now - self.seconds))

    def _wait(self, recent: "array[float]", now: float) -> float | None:
        return max(0.0, recent[0] + self.seconds - now) if len(recent) >= self.most else None
