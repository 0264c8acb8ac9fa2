"""The log of a training run: a list of typed events, each written to every sink."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import takewhile
from types import TracebackType
from typing import Self

from imprint.events import (
    Event,
    Finished,
    Notice,
    NoticeSource,
    Rescued,
    Started,
    WatchedAnswer,
    event_fields,
    last_start,
    read_events,
    read_rescues,
)
from imprint.files.atomic import write_jsonl
from imprint.messages import Bilingual
from imprint.progress import Progress
from imprint.runs import RunFolder
from imprint.terminal import say
from imprint.training.sinks import Curve, EventFile, SampleFile, Screen, Sink, sample_line
from imprint.training.tensorboard import TensorBoard


class RunLog:
    """The open log of one run. When a run resumes, events after its saved state are dropped.

    Only the main process writes and prints; the others are `quiet` and keep the same events in memory.
    """

    def __init__(
        self, run: RunFolder, *, step: int, steps: int, data_digest: str = "", quiet: bool = False, trackers: Sequence[Sink] = ()
    ) -> None:
        """Open every sink; if that fails, the opened ones and the `trackers` are closed. `data_digest` is that of the encoded rows."""
        self.step = step
        """The current step, under which notices are logged."""
        self.bar = Progress(Bilingual("training", "训练"), steps, "step", start=step, quiet=quiet)
        self.events: list[Event] = _events_up_to(run, step, steps, data_digest)
        """All events so far."""
        self.sinks: tuple[Sink, ...] = ()
        self._unwritten: Event | None = None
        """The latest event, if the sinks do not have it yet."""
        with ExitStack() as stack:
            for tracker in trackers:
                stack.callback(tracker.close)
            if not quiet:
                _rewrite(run, self.events)
                opened = (*_run_folder_sinks(run, self.events, step), Screen(self.bar))
                for sink in opened:
                    stack.callback(sink.close)
                self.sinks = (*opened, *trackers)
            start = last_start(self.events)
            if start is None or start.steps != steps:
                self.write(Started(step=step, steps=steps, data=data_digest))
            self._open_sinks = stack.pop_all()

    def __enter__(self) -> Self:
        """Show the bar."""
        self.bar.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Write what is not yet written, and close every sink."""
        try:
            with self._open_sinks:
                self.flush()
        except Exception:  # of a tracker, any
            if error is None:  # else the original error is raised
                raise
        finally:
            self.bar.__exit__(kind, error, trace)

    def write(self, event: Event, *, show: bool = True) -> None:
        """Log one event; the screen may leave it out. Raises UserError where a sink cannot be written."""
        self._add(event)
        self._send(event, show=show)

    def write_later(self, event: Event) -> None:
        """Log one event, which the sinks get with the next `flush`, or before the next event: while a GPU computes the next step."""
        self._add(event)
        self._unwritten = event

    def flush(self) -> None:
        """Let the sinks have the latest event. Raises UserError where one cannot be written."""
        event, self._unwritten = self._unwritten, None
        if event is not None:
            self._send(event)

    def _add(self, event: Event) -> None:
        self.flush()
        self.step = event.step
        self.events.append(event)

    def _send(self, event: Event, *, show: bool = True) -> None:
        for sink in self.sinks:
            if show or not isinstance(sink, Screen):
                sink.write(event)

    def notice(self, message: Bilingual, source: NoticeSource, *, show: bool = True) -> None:
        """Log a message about the current step; the screen may leave it out."""
        self.write(Notice(step=self.step, source=source, english=message.english, chinese=message.chinese), show=show)

    def notice_once(self, message: Bilingual, source: NoticeSource) -> None:
        """Print a message; log it unless the log of this run has it already."""
        logged = any(isinstance(event, Notice) and event.message == message for event in self.events)
        if logged:
            self.bar.say(str(message))
        else:
            self.notice(message, source)

    def memory_notice(self, message: Bilingual) -> None:
        """Log a message about memory; the screen shows it."""
        self.notice(message, "memory")

    def finish(self, best_step: int, best_loss: float | None) -> None:
        """Log that all steps are done, unless that is the last event already: `follow` stops at a last event of this kind."""
        if not isinstance(self.events[-1], Finished):
            self.write(Finished(step=self.step, best_step=best_step, best_loss=best_loss))

    def events_of(self, step: int) -> list[Event]:
        """The events of that step, which must be the latest."""
        return list(takewhile(lambda event: event.step == step, reversed(self.events)))[::-1]


@dataclass
class EarlyNotices:
    """Messages from before the log is open: they are printed at once, and logged when it opens."""

    messages: list[Bilingual] = field(default_factory=list)

    def __call__(self, message: Bilingual) -> None:
        """Print a message and keep it for the log."""
        say(str(message))
        self.messages.append(message)

    def log(self, run_log: RunLog) -> None:
        """Write the messages to the log and forget them."""
        for message in self.messages:
            run_log.notice(message, "resume", show=False)
        self.messages.clear()


def _events_up_to(run: RunFolder, step: int, steps: int, data_digest: str) -> list[Event]:
    """The events to keep in a run of `steps` steps that resumes after `step`: those up to `step`, and all rescues.

    A run that begins again with other rows keeps only its rescues: the evaluation before tuning is not one of these rows.
    """
    rescues, logged = read_rescues(run), read_events(run)
    start = last_start(logged)
    if not step and (start is None or start.data != data_digest):
        logged = []
    events: list[Event] = []
    for event in logged:
        if isinstance(event, Rescued):
            if event in rescues:
                events.append(event)
        elif event.step <= step and not (isinstance(event, Finished) and event.step < steps):
            events.append(event)
    for rescue in rescues:  # a kill may have left the last one in rescues.jsonl only, an earlier version all of them
        if rescue not in events:
            later = (index for index, event in enumerate(events) if event.step > rescue.back_to)
            events.insert(next(later, len(events)), rescue)
    return events


def _rewrite(run: RunFolder, events: list[Event]) -> None:
    """Replace log.jsonl and samples.jsonl, each atomically; after a kill in between, the next resume does it again."""
    if run.log.exists():
        write_jsonl(run.log, map(event_fields, events))
    if run.samples.exists():
        write_jsonl(run.samples, [sample_line(event) for event in events if isinstance(event, WatchedAnswer)])


def _run_folder_sinks(run: RunFolder, events: list[Event], step: int) -> tuple[Sink, ...]:
    rescues = [event.back_to for event in events if isinstance(event, Rescued)]
    return (EventFile(run.log, events), SampleFile(run.samples), TensorBoard(run.tensorboard, step=step + 1), Curve(run, events, rescues))
