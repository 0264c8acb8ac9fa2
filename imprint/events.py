"""Typed events of a training run: the lines of log.jsonl, read by guard, summary, report and every sink.

The guard watches the losses of a run for divergence: see `imprint/training/guard.py`.
"""

import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Discriminator, Field, TypeAdapter, ValidationError

from imprint.files.atomic import append_jsonl, whole_lines
from imprint.files.reading import require_regular
from imprint.messages import Bilingual, UserError
from imprint.runs import RunFolder

MAX_STEP: Final = 10**15
"""Largest step of a log that is read; a curve of larger numbers cannot be drawn."""
StepNumber = Annotated[int, Field(ge=0, le=MAX_STEP)]
"""A number of steps, or of a row."""
MAX_RESCUED: Final = 1000
"""Most rescues of a log that are read; a run ends after the third."""
NoticeSource = Literal["data", "guard", "memory", "resume", "sample"]
"""What a notice is about."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """The run starts, or its length has changed."""

    event: Literal["started"] = "started"
    step: StepNumber
    """Optimizer steps done before."""
    steps: StepNumber
    """Optimizer steps of the whole run."""
    data: str = ""
    """Digest of the encoded rows; empty in logs of earlier versions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One optimizer step."""

    event: Literal["step"] = "step"
    step: StepNumber
    """Its number, from 1."""
    loss: float | None
    """Mean loss in nats per target token; None for a step that was skipped, because its loss or gradient was not finite."""
    learning_rate: float
    """Learning rate of this step."""
    gradient_norm: float | None
    """Gradient norm before clipping; None if it is not finite."""
    tokens_per_second: float
    """Tokens computed per second, over all processes."""
    memory_gib: float
    """Peak memory so far, in GiB."""
    seconds: float
    """Training time so far, in seconds; evaluation and saving do not count."""
    skipped_rows: tuple[StepNumber, ...] = ()
    """Row numbers of a skipped step."""
    broken_rows: tuple[StepNumber, ...] = ()
    """Those of them whose own loss is not finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The evaluation loss after a step; step 0 is before tuning."""

    event: Literal["evaluation"] = "evaluation"
    step: StepNumber
    eval_loss: float | None
    """Mean loss in nats per target token of the held-out rows; None if it is not finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchedAnswer:
    """The greedy answer to a watched prompt after a step."""

    event: Literal["sample"] = "sample"
    step: StepNumber
    prompt: str
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """A message to the person who trains."""

    event: Literal["notice"] = "notice"
    step: StepNumber
    source: NoticeSource
    english: str
    chinese: str

    @property
    def message(self) -> Bilingual:
        """The message in both languages."""
        return Bilingual(self.english, self.chinese)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rescued:
    """The guard takes the run back to an earlier state, with a lower learning rate; also a line of rescues.jsonl."""

    event: Literal["rescued"] = "rescued"
    step: StepNumber
    """The step after which the guard found the divergence."""
    back_to: StepNumber
    """The step whose state the run resumes from; 0 is the start. Events of the steps in between are dropped from the log."""
    rate_scale: Annotated[float, Field(gt=0, le=1)]
    """Factor of the recipe's learning rate from there on."""
    reason: str
    """Description of what was observed."""
    rows: tuple[str, ...]
    """Locations of the rows at which the divergence began."""
    best_step: StepNumber
    """The step of the best weights at that time, which may be later than `back_to`."""
    best_loss: Annotated[float, Field(allow_inf_nan=False)] | None
    """Evaluation loss of that step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """All steps are done."""

    event: Literal["finished"] = "finished"
    step: StepNumber
    best_step: StepNumber
    """The step whose weights are kept."""
    best_loss: float | None
    """Evaluation loss of that step; None without held-out rows."""


Event = Started | Step | Evaluation | WatchedAnswer | Notice | Rescued | Finished


def finite_or_none(value: float) -> float | None:
    """The number, or None for NaN and infinities, as an event holds it."""
    return value if math.isfinite(value) else None


def event_fields(event: Event) -> dict[str, Any]:
    """An event as its line in log.jsonl; empty lists of a step's rows are left out."""
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    return {name: value for name, value in values.items() if value != () or name == "rows"}


def event_numbers(event: Step | Evaluation) -> dict[str, float]:
    """The numbers of a step or an evaluation by the names that trackers show, such as `train/loss`; None is left out."""
    return {f"train/{name}": value for name, value in event_fields(event).items() if name != "step" and isinstance(value, int | float)}


def parse_event(line: object, location: str, event: str | None = None) -> Event:
    """The event in the value of a line of JSON; `location` is file and line, for the message. Raises UserError.

    Earlier versions wrote no `event` into log.jsonl: then it is the `event` given, or follows from the fields.
    """
    if not isinstance(line, dict) or type(line.get("step")) is not int:
        raise UserError(
            Bilingual(
                f'{location}: this line has no "step", an integer. Correct or delete the line, then run again.',
                f"{location}：这一行没有整数 step：请修改或删除该行，再重新运行。",
            )
        )
    if "event" not in line:
        event = event or ("sample" if "prompt" in line else "evaluation" if "eval_loss" in line else "step")
        line = {"event": event, **line}
    try:
        return _adapter().validate_json(json.dumps(line))
    except (ValidationError, RecursionError) as error:
        raise UserError(
            Bilingual(
                f"{location}: this is not a line that Imprint wrote. Correct or delete the line, then run again.",
                f"{location}：这一行不是 Imprint 写的内容：请修改或删除该行，再重新运行。",
            )
        ) from error


def read_events(run: RunFolder) -> list[Event]:
    """All events of a run, in order. Answers that an earlier version wrote to samples.jsonl only are inserted after their step.

    Raises UserError for a line that is not an event.
    """
    events = _read(run.log)
    if any(isinstance(event, WatchedAnswer) for event in events):
        return events
    samples = _read(run.samples)
    return sorted([*events, *samples], key=lambda event: event.step) if samples else events


def values_by_step(events: Iterable[Event], field: str) -> dict[int, float]:
    """One quantity of the events that have it, such as `loss`, `eval_loss` or `memory_gib`, by increasing step.

    None and values that are not finite are left out; if a step was logged twice, the later value is taken.
    """
    values = {event.step: float(value) for event in events if (value := getattr(event, field, None)) is not None}
    return {step: value for step, value in sorted(values.items()) if math.isfinite(value)}


def evaluation_losses(events: Sequence[Event]) -> dict[int, float]:
    """The evaluation losses by increasing step; step 0 is before tuning. A rescue drops the evaluation of better weights that are kept."""
    losses = values_by_step(events, "eval_loss")
    for event in events:
        if isinstance(event, Finished) and event.best_loss is not None and math.isfinite(event.best_loss):
            losses[event.best_step] = min(event.best_loss, losses.get(event.best_step, math.inf))
    return dict(sorted(losses.items()))


def last_start(events: Sequence[Event]) -> Started | None:
    """The latest `Started` of these events; None in a log of an earlier version."""
    return next((event for event in reversed(events) if isinstance(event, Started)), None)


def read_rescues(run: RunFolder) -> list[Rescued]:
    """The rescues of a run, from rescues.jsonl, in order. Raises UserError for a line that is not an event."""
    return [event for event in _read(run.rescues, event="rescued") if isinstance(event, Rescued)]


def write_rescue(run: RunFolder, rescue: Rescued) -> None:
    """Record a rescue in rescues.jsonl; no later start resumes from a state that it discarded."""
    append_jsonl(run.rescues, {name: value for name, value in event_fields(rescue).items() if name != "event"})


def follow(run: RunFolder, *, poll_seconds: float = 0.5) -> Iterator[Event]:
    """Yield the events of a run from the first on, as they are logged, until the run is finished.

    A resumed or rescued run repeats steps: a `Step` whose number was there before replaces that one and all that came after it.
    While the run is not finished, this waits for more events, through kills and resumes. Raises UserError for a line that is not an event.
    """
    tail = _Tail(run.log)
    finished = False
    rescues: list[Rescued] = []
    while not finished:
        for number, line in tail.new_lines():
            event = _parse_line(line, f"{run.log}:{number}")
            if not isinstance(event, Rescued) or event not in rescues:  # a replaced log repeats earlier ones
                yield event
            if isinstance(event, Rescued):
                rescues.append(event)
            if not isinstance(event, Notice):  # a finished run that is started again may say something, and is finished all the same
                finished = isinstance(event, Finished)
        if not finished:
            time.sleep(poll_seconds)


class _Tail:
    """Reads the new lines of a file that grows, and that a resume may replace by a shorter one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hashes: list[int] = []
        """Hashes of the lines read so far."""
        self.offset = 0
        """Offset in bytes of the next line."""
        self.last = b""
        """The last line read; if the file no longer has it before `offset`, the file was replaced."""

    def new_lines(self) -> list[tuple[int, bytes]]:
        """The complete lines since the last call, with their numbers; after a replacement, all from the first that differs."""
        try:
            require_regular(self.path)
            with self.path.open("rb") as file:
                file.seek(self.offset - len(self.last))
                first = len(self.hashes)
                if file.read(len(self.last)) != self.last:
                    file.seek(0)
                    first = self.offset = 0
                data = file.read()
        except FileNotFoundError:
            return []
        lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
        hashes = [hash(line) for line in lines]
        known = next((i for i, (old, new) in enumerate(zip(self.hashes[first:], hashes, strict=False)) if old != new), None)
        known = min(len(hashes), len(self.hashes) - first) if known is None else known
        self.hashes[first:] = hashes
        self.offset += sum(map(len, lines))
        self.last = lines[-1] if lines else self.last if first else b""
        return list(enumerate(lines, start=first + 1))[known:]


def _parse_line(line: bytes, location: str, event: str | None = None) -> Event:
    """The event in a line of JSON, as `parse_event`; a line of this version is parsed once, since a log may have a million."""
    with suppress(ValidationError):
        return _adapter().validate_json(line)
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    return parse_event(value, location, event)


def _read(path: Path, event: str | None = None) -> list[Event]:
    """The events in a file of JSON lines; `event` is the kind of lines without that key. Raises UserError for what no run writes."""
    events = [_parse_line(line, f"{path}:{number}", event) for number, line in enumerate(whole_lines(path), start=1)]
    if sum(isinstance(one, Rescued) for one in events) > MAX_RESCUED:
        raise UserError(
            Bilingual(
                f"{path}: holds more than {MAX_RESCUED:,} rescues, and a run ends after the third. Is it another file?",
                f"{path}：含有超过 {MAX_RESCUED:,} 次救回，而训练在第三次之后就会结束：请检查是否给错了文件。",
            )
        )
    return events


@cache
def _adapter() -> TypeAdapter[Event]:
    return TypeAdapter(Annotated[Event, Discriminator("event")], config=ConfigDict(extra="forbid", strict=True))
