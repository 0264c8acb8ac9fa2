"""What is left of a run that is stopped, and what a second run in its folder is told: a fork for each process, as in `tests.killing`."""

import os
import pty
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from imprint.cli import main
from imprint.files.atomic import read_jsonl
from imprint.runs import RunFolder
from tests.killing import end, line_count, start
from tests.tinyrun import tiny_recipe

INTERRUPTED = ["train.steps=60", "train.save_every=45", "train.evaluate_every=20", "train.watch_prompts=0"]
CLOSED = ["train.steps=2000", "train.save_every=1900", "train.evaluate_every=2000"]
HELD = ["train.steps=5000", "train.save_every=5", "train.evaluate_every=5", "train.watch_prompts=0"]


def stops(folder: Path) -> dict[str, Any]:
    """What came of each kind of stop, as JSON can hold it."""
    folder.mkdir()
    recipe = tiny_recipe(folder)
    return {"ctrl_c": ctrl_c(recipe), "closed": closed_terminal(recipe), "held": held_folder(recipe), "alone": without_programs(recipe)}


def without_programs(recipe: Path) -> dict[str, Any]:
    """A step on a quantized base where no compiler and no other program is found."""
    screen = recipe.parent / "alone.txt"

    def forget() -> None:
        os.environ.clear()
        os.environ.update({"PATH": str(recipe.parent / "empty"), "HOME": str(recipe.parent), "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"})

    quantized = ["model.quantize=4", "model.device=null", "train.steps=1", "train.evaluate_every=1", "train.watch_every=1"]
    status = end(start(["train", str(recipe), f"output={recipe.parent / 'alone'}", *quantized], screen, forget))
    return {"status": status, "said": screen.read_text(encoding="utf-8")}


def wait_for_lines(run: RunFolder, count: int, child: int) -> None:
    """Wait until the log of a run has so many lines, or its process has ended."""
    while line_count(run.log) < count and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.002)


def left_by(run: RunFolder, status: int) -> dict[str, Any]:
    """Exit status, last step, saved states."""
    step = max(line["step"] for line in read_jsonl(run.log))
    return {"status": status, "step": step, "states": [state.name for state in run.states()], "expected": [run.state(step).name]}


def ctrl_c(recipe: Path) -> dict[str, Any]:
    """A run that is stopped and gone on with, beside one that is not stopped."""
    run, screen = RunFolder(recipe.parent / "interrupted"), recipe.parent / "interrupted.txt"
    command, other = (["train", str(recipe), f"output={recipe.parent / name}", *INTERRUPTED] for name in ("interrupted", "uninterrupted"))
    child = start(command, screen)
    wait_for_lines(run, 3, child)
    os.kill(child, signal.SIGINT)
    found = {**left_by(run, end(child)), "said": screen.read_text(encoding="utf-8")}
    return {**found, "folder": str(recipe.parent), "later": [end(start(words, screen)) for words in (command, other)]}


def closed_terminal(recipe: Path) -> dict[str, Any]:
    """A run whose terminal is closed."""
    run = RunFolder(recipe.parent / "closed")
    child, terminal = pty.fork()
    if not child:
        _run_in_terminal(["train", str(recipe), f"output={run.path}", *CLOSED])
    threading.Thread(target=_read_all, args=(terminal,), daemon=True).start()
    wait_for_lines(run, 3, child)
    os.dup2(os.open(os.devnull, os.O_RDONLY), terminal)
    return left_by(run, end(child))


def _run_in_terminal(command: list[str]) -> None:
    """In the child: run a command that writes each line to the terminal at once, and end."""
    status = 99
    try:
        sys.stdout, sys.stderr = (os.fdopen(handle, "w", buffering=1, encoding="utf-8", closefd=False) for handle in (1, 2))
        status = main(command)
    finally:
        os._exit(status)


def _read_all(terminal: int) -> None:
    """Take what a terminal shows, until it is closed."""
    with suppress(OSError):
        while os.read(terminal, 4096):
            pass


def held_folder(recipe: Path) -> dict[str, Any]:
    """What a second run in a folder is told while the first one trains, and when that was killed; and an evaluation meanwhile."""
    run, screens = RunFolder(recipe.parent / "held"), [recipe.parent / f"held-{number}.txt" for number in range(4)]
    command = ["train", str(recipe), f"output={run.path}", *HELD]
    first = start(command, screens[0])
    try:
        wait_for_lines(run, 12, first)
        second = end(start(command, screens[1]))
        alive = os.waitid(os.P_PID, first, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        asked = ["evaluate", str(run.path), "--data", str(recipe.parent / "rows.jsonl"), "--limit", "2"]
        evaluated = end(start(asked, screens[2]))
    finally:
        os.kill(first, signal.SIGKILL)
        end(first)
    later = end(start([*command, "train.steps=1"], screens[3]))
    told, told_later = (screens[number].read_text(encoding="utf-8") for number in (1, 3))
    return {
        "path": str(run.path),
        "first": first,
        "alive": alive,
        "second": second,
        "told": told,
        "evaluated": evaluated,
        "later": later,
        "told_later": told_later,
    }
