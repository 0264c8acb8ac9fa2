"""Progress of a long job: a live bar on a terminal, a plain line every ten seconds in a log file."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from imprint.terminal import harmless

SECONDS_BETWEEN_LINES = 10.0
T = TypeVar("T")


@dataclass(frozen=True)
class JobProgress:
    """Units done and speed of a job; the speed counts only the units done since this process started."""

    done: int
    """Units done, including those of earlier processes."""
    total: int
    """All units."""
    start: int
    """Units done before this process started."""
    seconds: float
    """Seconds since this process started the job."""

    @property
    def per_second(self) -> float:
        """Units per second; 0 before the first one is done."""
        return (self.done - self.start) / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end at this speed; None before the first unit is done."""
        return (self.total - self.done) / self.per_second if self.per_second > 0 else None

    def text(self, unit: str) -> str:
        """Speed, elapsed time and time left, such as "2.5 row/s  0:07 < 1:30"."""
        rate = f"{self.per_second:.1f} {unit}/s" if self.per_second >= 1 or not self.per_second else f"{1 / self.per_second:.1f} s/{unit}"
        left = "--:--" if self.seconds_left is None else clock(self.seconds_left)
        return f"{rate}  {clock(self.seconds)} < {left}"


def clock(seconds: float) -> str:
    """Seconds as a clock time: 0:07, 12:30, 3:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """A context manager that shows `description`, units done, speed, time left and extra fields while a job advances.

    `start` is the number of units done by the run that is now resumed. If the output is no terminal, a line is printed every ten
    seconds and one at the end. `say` prints a line above the bar. With `quiet` nothing is shown.
    """

    def __init__(
        self,
        description: str,
        total: int,
        unit: str,
        *,
        start: int = 0,
        console: Console | None = None,
        quiet: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._description = description
        self._unit = unit
        self._console = console or Console(quiet=quiet)
        self._now = now
        self._started = now()
        self._last_print = now()
        self._state = JobProgress(done=start, total=total, start=start, seconds=0.0)
        self._fields: dict[str, str] = {}
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            TextColumn("{task.fields[status]}", markup=False),
            console=self._console,
        )
        self._task = self._bar.add_task(harmless(description), total=total, completed=start, status="")

    def __enter__(self) -> Self:
        """Start the clock."""
        self._started = self._last_print = self._now()
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the last status on the screen, or print it."""
        self._count(0)
        if self._console.is_terminal:
            self._bar.stop()
        else:
            self._print()

    def advance(self, count: int = 1, fields: Mapping[str, str] | None = None) -> None:
        """Count `count` more units as done and show `fields`, each until it is given a new value."""
        self._fields |= fields or {}
        self._count(count)
        self._bar.update(self._task, completed=self._state.done, status=self._status())
        if not self._console.is_terminal and self._now() - self._last_print >= SECONDS_BETWEEN_LINES:
            self._print()

    def track(self, items: Iterable[T], every: int = 1000) -> Iterator[T]:
        """Yield the items and count each as a unit; the bar is updated after every `every` items."""
        done = 0
        for done, item in enumerate(items, start=1):
            yield item
            if done % every == 0:
                self.advance(every)
        self.advance(done % every)

    def say(self, text: str) -> None:
        """Print `text` above the bar, without markup and without wrapping lines."""
        self._console.print(Text(harmless(text)), soft_wrap=True)

    def _count(self, count: int) -> None:
        state = self._state
        self._state = JobProgress(state.done + count, state.total, state.start, self._now() - self._started)

    def _status(self) -> str:
        fields = "".join(f"  {name} {value}" for name, value in self._fields.items())
        return harmless(f"{self._state.done}/{self._state.total}  {self._state.text(self._unit)}{fields}")

    def _print(self) -> None:
        self._last_print = self._now()
        self.say(f"{self._description}: {self._status()}")
