"""How far a long job is: a live bar on a terminal, a plain line now and then in a log file."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0
T = TypeVar("T")


@dataclass(frozen=True)
class Pace:
    """How a job goes, counted over this process's own work only: what an earlier one did is done, but says nothing of the speed."""

    done: int
    """Units done, with those of earlier processes."""
    total: int
    """Units there are."""
    start: int
    """Units that were done before this process began."""
    seconds: float
    """Time this process has worked."""

    @property
    def per_second(self) -> float:
        """Units per second; zero before the first one is done."""
        return (self.done - self.start) / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Time until the end at this pace; None before the first unit is done."""
        return (self.total - self.done) / self.per_second if self.per_second > 0 else None

    def text(self, unit: str) -> str:
        """One phrase: rate, time so far, time left."""
        rate = f"{self.per_second:.1f} {unit}/s" if self.per_second >= 1 or not self.per_second else f"{1 / self.per_second:.1f} s/{unit}"
        left = "--:--" if self.seconds_left is None else clock(self.seconds_left)
        return f"{rate}  {clock(self.seconds)} < {left}"


def clock(seconds: float) -> str:
    """A time as people read it: 0:07, 12:30, 3:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def say(text: str) -> None:
    """Print `text` on lines of its own, as it is."""
    Console().print(Text(text), soft_wrap=True)


class Progress:
    """A context that shows `description`, done and total, rate, time left and free fields while a job advances.

    `start` is how many units were done before, by a run that is now resumed. Where the output is no terminal, a line is
    printed every ten seconds and one at the end. `say` prints a line of its own above the bar. A `quiet` one shows nothing at all.
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
        self._began = now()
        self._spoke = now()
        self._pace = Pace(done=start, total=total, start=start, seconds=0.0)
        self._fields: dict[str, str] = {}
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            TextColumn("{task.fields[told]}", markup=False),
            console=self._console,
        )
        self._task = self._bar.add_task(description, total=total, completed=start, told="")

    def __enter__(self) -> Self:
        """Start the clock."""
        self._began = self._spoke = self._now()
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the last state on the screen, or print it."""
        self._measure(0)
        if self._console.is_terminal:
            self._bar.stop()
        else:
            self._print()

    def advance(self, count: int = 1, fields: Mapping[str, str] | None = None) -> None:
        """Count `count` more units as done and show `fields`, which stay until they are given anew."""
        self._fields |= fields or {}
        self._measure(count)
        self._bar.update(self._task, completed=self._pace.done, told=self._told())
        if not self._console.is_terminal and self._now() - self._spoke >= SECONDS_BETWEEN_LINES:
            self._print()

    def over(self, items: Iterable[T], at_once: int = 1000) -> Iterator[T]:
        """The items, each a unit that is done when the next one is asked for; the bar moves after so many."""
        done = 0
        for done, item in enumerate(items, start=1):
            yield item
            if done % at_once == 0:
                self.advance(at_once)
        self.advance(done % at_once)

    def say(self, text: str) -> None:
        """Print `text` on lines of its own, as it is."""
        self._console.print(Text(text), soft_wrap=True)

    def _measure(self, count: int) -> None:
        pace = self._pace
        self._pace = Pace(pace.done + count, pace.total, pace.start, self._now() - self._began)

    def _told(self) -> str:
        fields = "".join(f"  {name} {value}" for name, value in self._fields.items())
        return f"{self._pace.done}/{self._pace.total}  {self._pace.text(self._unit)}{fields}"

    def _print(self) -> None:
        self._spoke = self._now()
        self.say(f"{self._description}: {self._told()}")
