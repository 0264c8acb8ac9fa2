"""Where the events of a run go: the files of the run folder, the picture of the loss, and the screen."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from imprint.events import Evaluation, Event, Notice, SampledAnswer, Step, event_fields
from imprint.files import append_jsonl, write_text
from imprint.progress import Progress
from imprint.report.curve import draw_curves
from imprint.runs import RunFolder

SECONDS_BETWEEN_CURVES = 15.0
SMOOTHING = 0.9


class Sink(Protocol):
    """One place that events are written to, as they happen."""

    def write(self, event: Event) -> None:
        """Take in one event. Raises UserError where it cannot be written."""

    def close(self) -> None:
        """Write what is left. Raises UserError where it cannot be written."""


class EventFile:
    """log.jsonl: every event is a line of JSON. A file that was deleted meanwhile is written anew."""

    def __init__(self, path: Path, events: list[Event]) -> None:
        self.path = path
        self.events = events
        """All events of the run so far; its owner appends to it before each write."""

    def write(self, event: Event) -> None:
        """Append the event, which is in `events` already."""
        if self.path.exists() or len(self.events) == 1:
            append_jsonl(self.path, event_fields(event))
        else:
            write_lines(self.path, map(event_fields, self.events))

    def close(self) -> None:
        """Nothing is left to write."""


class SampleFile:
    """samples.jsonl: prompts and answers alone, for people and scripts that look for nothing else."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: Event) -> None:
        """Append a sampled answer."""
        if isinstance(event, SampledAnswer):
            append_jsonl(self.path, sample_line(event))

    def close(self) -> None:
        """Nothing is left to write."""


class Curve:
    """loss.png, drawn anew now and then."""

    def __init__(self, run: RunFolder, events: list[Event], rescues: Iterable[int]) -> None:
        self.run = run
        self.events = events
        """All events of the run so far; its owner appends to it before each write."""
        self.rescues = list(rescues)
        """The steps that rescues went back to."""
        self._drawn = time.monotonic()

    def write(self, event: Event) -> None:
        """Draw again if the picture is old."""
        if isinstance(event, Step) and time.monotonic() - self._drawn > SECONDS_BETWEEN_CURVES:
            self._draw()

    def close(self) -> None:
        """Draw the last picture."""
        self._draw()

    def _draw(self) -> None:
        if any(isinstance(event, Step | Evaluation) for event in self.events):
            draw_curves(self.events, self.run.curve, title=self.run.path.name, rescues=self.rescues)
        self._drawn = time.monotonic()


class Screen:
    """The progress bar, and lines above it."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self._smoothed: float | None = None

    def write(self, event: Event) -> None:
        """Move the bar, or print a sampled answer or a notice above it."""
        match event:
            case Step():
                self._advance(event)
            case SampledAnswer():
                self.bar.say(f"  {event.prompt}\n  -> {event.answer}")
            case Notice():
                self.bar.say(str(event.message))
            case _:  # what the story of a run prints by itself
                pass

    def close(self) -> None:
        """Nothing is left to write."""

    def _advance(self, step: Step) -> None:
        if step.loss is not None:
            self._smoothed = step.loss if self._smoothed is None else SMOOTHING * self._smoothed + (1 - SMOOTHING) * step.loss
        shown = {"loss": "-" if self._smoothed is None else f"{self._smoothed:.3f}", "lr": f"{step.learning_rate:.1e}"}
        shown |= {"tokens/s": f"{step.tokens_per_second:,.0f}", "memory": f"{step.memory_gib:.1f} GiB"}
        self.bar.advance(1, shown)


def sample_line(event: SampledAnswer) -> dict[str, object]:
    """The line of samples.jsonl."""
    return {"step": event.step, "prompt": event.prompt, "answer": event.answer}


def write_lines(path: Path, lines: Iterable[object]) -> None:
    """Write a file of JSON lines atomically."""
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
