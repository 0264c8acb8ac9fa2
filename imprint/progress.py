"""Progress of a long job: a live bar on a terminal, a plain line every ten seconds in a log file."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from imprint.messages import Bilingual
from imprint.terminal import harmless

SECONDS_BETWEEN_LINES = 10.0
BAR_WIDTHS = (24, 10, 4, 0)
"""Widths of the bar, in columns; a narrow terminal has a short one or none."""
COLUMN_GAPS = 5
"""Columns that the spinner and the spaces between the columns take."""
MIN_SUBJECT = 12
"""Columns of the end of a long subject, such as a path, that are shown at least."""
IMPORTANT = 3
"""The priority down to which nothing is left out for a longer bar: units done, the first field, time left, rate."""
SEPARATOR = "  "
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
        """Seconds until the end at this speed, none where more was done than expected; None before the first unit is done."""
        return max(self.total - self.done, 0) / self.per_second if self.per_second > 0 else None

    def rate(self, unit: str) -> str:
        """The speed, such as "2.5 row/s" or "4.0 s/row"."""
        return f"{self.per_second:.1f} {unit}/s" if self.per_second >= 1 or not self.per_second else f"{1 / self.per_second:.1f} s/{unit}"

    def parts(self, unit: str, fields: Mapping[str, str]) -> list[tuple[int, str]]:
        """(priority, text) of what is known, in the order in which it is shown; the first field is more important than the others."""
        left = "--:--" if self.seconds_left is None else clock(self.seconds_left)
        first, *others = [f"{name} {value}" for name, value in fields.items()] or [""]
        shown = [
            (0, f"{self.done}/{self.total}"),
            (1, first),
            (3, self.rate(unit)),
            (4, f"{clock(self.seconds)} elapsed 已用"),
            (2, f"{left} left 剩余"),
            *enumerate(others, start=5),
        ]
        return [(priority, text) for priority, text in shown if text]


def fitting(parts: Sequence[tuple[int, str]], width: int) -> str:
    """The parts of the highest priority (the lowest numbers) that fit into `width` columns together, in their order."""
    for limit in range(max(priority for priority, _text in parts), 0, -1):
        line = SEPARATOR.join(text for priority, text in parts if priority <= limit)
        if cell_len(line) <= width:
            return line
    return parts[0][1]


def clock(seconds: float) -> str:
    """Seconds as a clock time: 0:07, 12:30, 3:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """A context manager that shows `title`, units done, speed, time left and extra fields while a job advances.

    `title` is shown in both languages where there is room, `subject` behind it is what the job works on, such as a path. `start` is the
    number of units done by the run that is now resumed. If the output is no terminal, a line is printed every ten seconds and one at the
    end. `say` prints a line above the bar. With `quiet` nothing is shown, with `errors` it is shown on the
    error output, for a command whose output is answers.
    """

    def __init__(
        self,
        title: Bilingual,
        total: int,
        unit: str,
        *,
        subject: str = "",
        start: int = 0,
        console: Console | None = None,
        quiet: bool = False,
        errors: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title = title
        self._subject = subject
        self._unit = unit
        self._console = console or Console(quiet=quiet, stderr=errors)
        self._now = now
        self._started = now()
        self._last_print = now()
        self._state = JobProgress(done=start, total=total, start=start, seconds=0.0)
        self._fields: dict[str, str] = {}
        self._bar_column = BarColumn(BAR_WIDTHS[0])
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            self._bar_column,
            TextColumn("{task.fields[status]}", markup=False, table_column=Column(no_wrap=True)),
            console=self._console,
        )
        self._task = self._bar.add_task(self._fitting()[0], total=total, completed=start, status="")

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
        title, status = self._fitting()
        self._bar.update(self._task, completed=self._state.done, description=title, status=status)
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

    def _fitting(self) -> tuple[str, str]:
        """Title and status for a terminal of this width: first the bar gets shorter, then the title, before a number is left out."""
        parts = [(priority, harmless(text)) for priority, text in self._state.parts(self._unit, self._fields)]
        everything, important = (
            cell_len(SEPARATOR.join(text for priority, text in parts if priority <= limit)) for limit in (len(parts) + 1, IMPORTANT)
        )
        titles = self._titles()
        room = self._console.width - COLUMN_GAPS
        choices = [(title, width, everything) for title in titles[:1] for width in BAR_WIDTHS[:-1]]
        choices += [(title, width, important) for title in titles for width in BAR_WIDTHS]
        fits = ((title, width) for title, width, length in choices if cell_len(title) + width + length <= room)
        title, self._bar_column.bar_width = next(fits, (titles[-1], 0))
        return title, fitting(parts, room - cell_len(title) - self._bar_column.bar_width)

    def _titles(self) -> list[str]:
        """The title from its longest form to its shortest: in both languages, in English; of a long subject the end, at last none."""
        both, subject = f"{self._title.english} {self._title.chinese}", harmless(self._subject)
        if not subject:
            return [both, self._title.english]
        most = max(self._console.width // 3, MIN_SUBJECT)
        end = subject if cell_len(subject) <= most else "…" + _last_columns(subject, most - 1)
        short = subject if cell_len(subject) <= MIN_SUBJECT else "…" + _last_columns(subject, MIN_SUBJECT - 1)
        return [f"{both} {end}", f"{self._title.english} {end}", f"{self._title.english} {short}", self._title.english]

    def _print(self) -> None:
        self._last_print = self._now()
        title = " ".join(part for part in (self._title.english, self._title.chinese, self._subject) if part)
        self.say(f"{title}: {SEPARATOR.join(text for _priority, text in self._state.parts(self._unit, self._fields))}")


def _last_columns(text: str, columns: int) -> str:
    """The end of a text in at most so many columns."""
    while cell_len(text) > columns:
        text = text[1:]
    return text
