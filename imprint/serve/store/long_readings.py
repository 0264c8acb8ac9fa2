"""Readings of seconds, such as searches: SQLite begins its log anew only while nobody reads in it, so they make way for a moment."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class LongReadings:
    """How many there are, from any thread, and whether another may begin."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self._is_held_up = False

    @contextmanager
    def one(self) -> Iterator[None]:
        """A reading, which begins as soon as it may."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_held_up)
            self._count += 1
        try:
            yield
        finally:
            with self._changed:
                self._count -= 1
                self._changed.notify_all()

    @contextmanager
    def held_up(self, seconds: float) -> Iterator[None]:
        """A block in which none begins; it is entered when all have ended, or after so many seconds."""
        with self._changed:
            self._is_held_up = True
            self._changed.wait_for(lambda: self._count == 0, timeout=seconds)
        try:
            yield
        finally:
            with self._changed:
                self._is_held_up = False
                self._changed.notify_all()
