"""`imprint runs [FOLDER] [--json]`: the runs below a folder with state, step, loss and scores."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from imprint.events import Event, Finished, Notice, Rescued, last_start, read_events, values_by_step
from imprint.loading.source import resolve_source
from imprint.messages import Bilingual, UserError
from imprint.report.run_scores import read_scores
from imprint.runs import RunFolder
from imprint.terminal import clip_columns, printable, say, say_json, table_lines, terminal_columns, width

MAX_CELL = 1000
"""Columns of a cell that are printed; a run of a stranger may have names of any length."""
MAX_DEPTH = 6
"""Depth in folders to which runs are searched."""
SCORES_SEPARATOR = "; "
"""Between the scores of two evaluations of a run."""
RunState = Literal["running", "finished", "stopped", "unreadable"]
STATE_NAMES: Mapping[RunState, Bilingual] = {
    "running": Bilingual("running", "训练中"),
    "finished": Bilingual("finished", "已完成"),
    "stopped": Bilingual("stopped", "已停止"),
    "unreadable": Bilingual("unreadable", "无法读取"),
}
HEADER = (
    Bilingual("run", "训练"),
    Bilingual("state", "状态"),
    Bilingual("method", "方法"),
    Bilingual("step", "步数"),
    Bilingual("loss", "损失"),
    Bilingual("best eval loss", "最低评估损失"),
    Bilingual("scores", "得分"),
)


@dataclass(frozen=True)
class RunEntry:
    """What the files of a run say."""

    path: str
    """Its folder."""
    state: RunState
    """`stopped`: no process trains in it, and steps are left; the same command resumes it."""
    method: str | None = None
    """prefix, lora or full; None before the first result."""
    base: str | None = None
    """The base that it tunes."""
    step: int = 0
    """Optimizer steps done."""
    steps: int | None = None
    """Steps of the whole run; None if the log does not say."""
    loss: float | None = None
    """Loss of the latest step with a finite one."""
    best_eval_loss: float | None = None
    """The lowest evaluation loss after tuning began."""
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    """Evaluation -> metric -> value."""
    updated: str | None = None
    """When something was last logged, local time."""
    notice: str | None = None
    """The latest notice or rescue in the log, in English; what is wrong with an unreadable run."""


def runs_command(folder: Path, *, as_json: bool) -> None:
    """`imprint runs`: print the runs below a folder. Raises UserError where there is no such folder, or no run in it."""
    if not folder.is_dir():
        raise UserError(
            Bilingual(
                f"{folder}: there is no such folder. Give the folder that holds the runs.",
                f"{folder}：没有这个目录：请给出存放训练结果的目录。",
            )
        )
    entries = [describe_run(run) for run in find_runs(folder)]
    if as_json:
        say_json([asdict(entry) for entry in entries])
        return
    if not entries:
        raise UserError(
            Bilingual(
                f"{folder}: no run is in this folder or up to {MAX_DEPTH} folders below it. A run is a folder with config.yaml and "
                "log.jsonl.",
                f"{folder}：该目录及其子目录中没有训练结果（含 config.yaml 与 log.jsonl 的目录）。",
            )
        )
    cells = [_cells(entry) for entry in entries]
    say(*fitting_lines(cells, terminal_columns(sys.stdout) if sys.stdout.isatty() else None))


def fitting_lines(rows: Sequence[tuple[str, ...]], columns: int | None) -> list[str]:
    """The runs as a table; where it is wider than `columns`, each as lines of its own: path and state, losses, scores of each evaluation.

    All but the path are clipped to `columns`.
    """
    table = list(table_lines([tuple(title.line for title in HEADER), *rows]))
    if columns is None or all(width(line) <= columns for line in table):
        return table
    lines = []
    for path, state, method, step, loss, best, last in rows:
        best_loss = Bilingual("best eval", "最低评估")
        facts = f"  {HEADER[3].line} {step}  {HEADER[4].line} {loss}  {best_loss.line} {best}"
        lines += [
            f"{printable(path)}  {state}  {method}",
            clip_columns(facts, columns),
            *(clip_columns(f"  {part}", columns) for part in last.split(SCORES_SEPARATOR) if part != "-"),
        ]
    return lines


def find_runs(folder: Path) -> Iterator[RunFolder]:
    """The run folders in a folder and below it, by name; links are not followed, hidden folders and folders inside runs are skipped."""
    for path, folders, files in os.walk(folder):
        current = Path(path)
        run = RunFolder(current)
        if run.config.name in files and (run.log.name in files or run.states()):
            folders.clear()
            yield run
            continue
        is_deepest = len(current.relative_to(folder).parts) >= MAX_DEPTH
        folders[:] = [] if is_deepest else sorted(name for name in folders if not name.startswith("."))


def describe_run(run: RunFolder) -> RunEntry:
    """State, progress and scores of a run, from its files alone; one that cannot be read is an entry that says why."""
    try:
        source, events = resolve_source(run.path), read_events(run)
        config = source.run
        assert config is not None, "a run folder has config.yaml"
        done = max((event.step for event in events if not isinstance(event, Notice | Rescued)), default=0)
        start = last_start(events)
        steps = config.train.steps if start is None else start.steps
        finished = any(isinstance(event, Finished) for event in events)
        if start is None:  # the log of an earlier version: it does not say that the run ended
            finished = run.verdict.is_file() if steps is None else done == steps
        return RunEntry(
            path=str(run.path),
            state="running" if run.is_locked() else "finished" if finished else "stopped",
            method=source.method,
            base=config.model.path,
            step=done,
            steps=steps,
            loss=next(reversed(values_by_step(events, "loss").values()), None),
            best_eval_loss=_best_eval_loss(events),
            scores={one.name: dict(one.means) for one in read_scores(run)},
            updated=datetime.fromtimestamp(run.log.stat().st_mtime).isoformat(timespec="seconds") if run.log.is_file() else None,
            notice=_latest_notice(events),
        )
    except (UserError, OSError, ValueError) as error:  # the last: a time of the log that no calendar has
        return RunEntry(str(run.path), "unreadable", notice=str(error).splitlines()[0])


def _best_eval_loss(events: Sequence[Event]) -> float | None:
    """The lowest evaluation loss after tuning began; a rescue drops evaluations from the log, but not the weights that were best."""
    losses = [loss for step, loss in values_by_step(events, "eval_loss").items() if step]
    losses += [event.best_loss for event in events if isinstance(event, Rescued | Finished) and event.best_loss is not None]
    return min(losses, default=None)


def _latest_notice(events: Sequence[Event]) -> str | None:
    for event in reversed(events):
        if isinstance(event, Notice):
            return event.english
        if isinstance(event, Rescued):
            return f"step {event.step}: {event.reason}; back to step {event.back_to}"
    return None


def _cells(entry: RunEntry) -> tuple[str, ...]:
    last_cell = SCORES_SEPARATOR.join(
        f"{name}: " + ", ".join(f"{metric} {value:.4g}" for metric, value in scores.items()) for name, scores in entry.scores.items()
    )
    if entry.state == "unreadable":
        last_cell = entry.notice or ""
    return (
        clip_columns(entry.path, MAX_CELL),
        STATE_NAMES[entry.state].line,
        entry.method or "-",
        f"{entry.step}/{entry.steps}" if entry.steps is not None else str(entry.step),
        "-" if entry.loss is None else f"{entry.loss:.3f}",
        "-" if entry.best_eval_loss is None else f"{entry.best_eval_loss:.3f}",
        clip_columns(last_cell, MAX_CELL) or "-",
    )
