"""What a run tells while it trains: a line per step, TensorBoard events, the picture of the loss, samples, and the bar on the screen."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from imprint.errors import UserError
from imprint.files import append_jsonl, nonfinite_to_null, read_jsonl, write_text
from imprint.progress import Progress
from imprint.report.curve import draw_curves
from imprint.runs import RunFolder
from imprint.training.tensorboard import Events

SECONDS_BETWEEN_CURVES = 15.0
SMOOTHING = 0.9


class RunLog:
    """The open log of one run; a resumed run first forgets what was logged after the state it goes on from.

    A `quiet` one, of a process that does not lead, remembers all of it, and writes and shows nothing.
    """

    def __init__(self, run: RunFolder, *, step: int, steps: int, quiet: bool = False) -> None:
        self.run = run
        self.quiet = quiet
        self.points: list[dict[str, Any]] = _cut(run.log, step, _is_point, quiet=quiet)
        self.samples: list[dict[str, Any]] = _cut(run.samples, step, _is_sample, quiet=quiet)
        self.events = None if quiet else Events(run.events, step=step + 1)  # also of a run killed before its first state
        self.bar = Progress("training", steps, "step", start=step, quiet=quiet)
        self.drawn = time.monotonic()
        self.smoothed: float | None = None

    def __enter__(self) -> Self:
        """Show the bar."""
        self.bar.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Draw the picture once more and close everything."""
        try:
            self.draw()
            if self.events is not None:
                self.events.close()
        except UserError:
            if error is None:  # else that is what must be told
                raise
        finally:
            self.bar.__exit__(kind, error, trace)

    def record(self, values: Mapping[str, Any]) -> None:
        """Log one line; every number goes to TensorBoard too. A log that was deleted meanwhile is written anew."""
        point = {name: nonfinite_to_null(value) for name, value in values.items()}
        self.points.append(point)
        if self.events is None:
            return
        if self.run.log.exists() or len(self.points) == 1:
            append_jsonl(self.run.log, point)
        else:
            _write(self.run.log, self.points)
        self.events.numbers(
            point["step"],
            {f"train/{name}": value for name, value in point.items() if name != "step" and isinstance(value, int | float)},
        )

    def points_of(self, step: int) -> list[dict[str, Any]]:
        """The newest lines, where they are of that step."""
        return list(takewhile(lambda point: point["step"] == step, reversed(self.points)))[::-1]

    def step(self, values: Mapping[str, Any]) -> None:
        """Log a training step and move the bar."""
        self.record(values)
        if values["loss"] is not None:
            self.smoothed = values["loss"] if self.smoothed is None else SMOOTHING * self.smoothed + (1 - SMOOTHING) * values["loss"]
        shown = {"loss": "-" if self.smoothed is None else f"{self.smoothed:.3f}", "lr": f"{values['learning_rate']:.1e}"}
        shown |= {"tokens/s": f"{values['tokens_per_second']:,.0f}", "memory": f"{values['memory_gib']:.1f} GiB"}
        self.bar.advance(1, shown)
        if time.monotonic() - self.drawn > SECONDS_BETWEEN_CURVES:
            self.draw()

    def sample(self, step: int, prompt: str, answer: str) -> None:
        """Keep and show what the model answers now."""
        self.samples.append({"step": step, "prompt": prompt, "answer": answer})
        if self.events is not None:
            append_jsonl(self.run.samples, self.samples[-1])
            self.events.text(step, "sample", f"{prompt}\n\n{answer}")
        self.bar.say(f"  {prompt}\n  -> {answer}")

    def draw(self) -> None:
        """Refresh the picture of the loss."""
        if self.points and not self.quiet:
            rescues = [rescue["back_to"] for rescue in read_jsonl(self.run.rescues)]
            draw_curves(self.points, self.run.curve, title=self.run.path.name, rescues=rescues)
        self.drawn = time.monotonic()


def _cut(path: Path, step: int, fits: Callable[[Mapping[str, Any]], bool], *, quiet: bool) -> list[dict[str, Any]]:
    """Keep the lines of a log up to `step`; killed meanwhile, the log is as it was."""
    lines = read_jsonl(path)
    for number, line in enumerate(lines, start=1):
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            raise UserError(f'{path}:{number}: this line has no "step", a whole number. Mend or delete the line, then run again.')
        if not fits(line):
            raise UserError(f"{path}:{number}: this is not what Imprint wrote. Mend or delete the line, then run again.")
    kept = [line for line in lines if line["step"] <= step]
    if path.exists() and not quiet:
        _write(path, kept)
    return kept


def _is_point(line: Mapping[str, Any]) -> bool:
    """Whether a line holds numbers, null for those that were not finite, and lists of rows."""
    return all(isinstance(value, list if name.endswith("_rows") else int | float | None) for name, value in line.items())


def _is_sample(line: Mapping[str, Any]) -> bool:
    return isinstance(line.get("prompt"), str) and isinstance(line.get("answer"), str)


def _write(path: Path, lines: Iterable[object]) -> None:
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
