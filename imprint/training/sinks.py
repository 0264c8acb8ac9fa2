"""Sinks of the events of a run: files in the run folder, a plot of the loss, and the screen."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from imprint.events import Evaluation, Event, Notice, Step, WatchedAnswer, event_fields
from imprint.files.atomic import append_jsonl, write_jsonl
from imprint.progress import Progress
from imprint.runs import RunFolder

SECONDS_BETWEEN_CURVES = 15.0
MOST_SHARE_OF_CURVES = 0.01
"""Of a run's time: training waits while a plot is drawn."""
SMOOTHING = 0.9
"""Weight of earlier losses in the exponential moving average that the screen shows."""


class Sink(Protocol):
    """A destination of events."""

    def write(self, event: Event) -> None:
        """Write one event. Raises UserError if it cannot be written."""

    def close(self) -> None:
        """Write what is buffered and close. Raises UserError if it cannot be written."""


class EventFile:
    """log.jsonl: a line of JSON per event. If the file was deleted meanwhile, all events are written again."""

    def __init__(self, path: Path, events: list[Event]) -> None:
        self.path = path
        self.events = events
        """All events so far; the RunLog appends to this list before each write."""

    def write(self, event: Event) -> None:
        """Append the event, which is already in `events`."""
        if self.path.exists() or len(self.events) == 1:
            append_jsonl(self.path, event_fields(event))
        else:
            write_jsonl(self.path, map(event_fields, self.events))

    def close(self) -> None:
        """Nothing to do."""


class SampleFile:
    """samples.jsonl: only the answers to watched prompts, for people and scripts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: Event) -> None:
        """Append a watched answer."""
        if isinstance(event, WatchedAnswer):
            append_jsonl(self.path, sample_line(event))

    def close(self) -> None:
        """Nothing to do."""


class Curve:
    """loss.png, a plot that is redrawn from time to time."""

    def __init__(self, run: RunFolder, events: list[Event], rescues: Iterable[int]) -> None:
        self.run = run
        self.events = events
        """All events so far; the RunLog appends to this list before each write."""
        self.rescues = list(rescues)
        """The steps that rescues went back to."""
        self._drawn = time.monotonic()
        self._pause = SECONDS_BETWEEN_CURVES

    def write(self, event: Event) -> None:
        """Redraw the plot if it is old."""
        if isinstance(event, Step) and time.monotonic() - self._drawn > self._pause:
            self._draw()

    def close(self) -> None:
        """Draw the final plot."""
        self._draw()

    def _draw(self) -> None:
        from imprint.report.curve import draw_curves  # matplotlib takes half a second to import, before the first step

        began = time.monotonic()
        if any(isinstance(event, Step | Evaluation) for event in self.events):
            draw_curves(self.events, self.run.curve, title=self.run.title, rescues=self.rescues)
        self._drawn = time.monotonic()
        self._pause = max(SECONDS_BETWEEN_CURVES, (self._drawn - began) / MOST_SHARE_OF_CURVES)


class Screen:
    """The progress bar, and lines above it."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self._smoothed: float | None = None

    def write(self, event: Event) -> None:
        """Move the bar, or print a watched answer or a notice above it."""
        match event:
            case Step():
                self._advance(event)
            case WatchedAnswer():
                self.bar.say(f"  {event.prompt}\n  -> {event.answer}")
            case Notice():
                self.bar.say(str(event.message))
            case _:  # `run` prints the other messages itself
                pass

    def close(self) -> None:
        """Nothing to do."""

    def _advance(self, step: Step) -> None:
        if step.loss is not None:
            self._smoothed = step.loss if self._smoothed is None else SMOOTHING * self._smoothed + (1 - SMOOTHING) * step.loss
        fields = {"loss": "-" if self._smoothed is None else f"{self._smoothed:.3f}", "lr": f"{step.learning_rate:.1e}"}
        fields |= {"tokens/s": f"{step.tokens_per_second:,.0f}", "memory": f"{step.memory_gib:.1f} GiB"}
        self.bar.advance(1, fields)


def sample_line(event: WatchedAnswer) -> dict[str, object]:
    """The line of samples.jsonl."""
    return {"step": event.step, "prompt": event.prompt, "answer": event.answer}
