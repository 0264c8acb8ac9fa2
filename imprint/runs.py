"""The run folder: the hand-over between commands, and the only place that knows the names of what is in it."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from imprint.errors import UserError
from imprint.files import translate_disk_errors
from imprint.messages import Bilingual

STATE = re.compile(r"state-(\d{6,})")


@dataclass(frozen=True)
class RunFolder:
    """The names of everything in a run folder; having one makes no file."""

    path: Path
    """The run folder itself."""

    @property
    def config(self) -> Path:
        """The recipe with every knob resolved, written when training begins; a folder without it is no run."""
        return self.path / "config.yaml"

    @property
    def log(self) -> Path:
        """One line of JSON per logged step."""
        return self.path / "log.jsonl"

    @property
    def events(self) -> Path:
        """TensorBoard's folder."""
        return self.path / "events"

    @property
    def curve(self) -> Path:
        """The picture of the loss."""
        return self.path / "loss.png"

    @property
    def adapter(self) -> Path:
        """The best adapter so far, replaced when a better one comes: read it through `imprint.files.find_folder`."""
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """The best model so far where all parameters are tuned, a complete folder."""
        return self.path / "model"

    @property
    def tokens(self) -> Path:
        """Raw text as token ids, where a run learns from that."""
        return self.path / "tokens"

    @property
    def samples(self) -> Path:
        """What the model answered to the watched prompts, one line of JSON each."""
        return self.path / "samples.jsonl"

    @property
    def rescues(self) -> Path:
        """What the guard did to keep the run alive, one line of JSON for each time."""
        return self.path / "rescues.jsonl"

    @property
    def evaluations(self) -> Path:
        """A folder for each evaluation of this run: predictions and scores."""
        return self.path / "evaluations"

    @property
    def comparison(self) -> Path:
        """The comparison of base and tuned model, without its ending: `.md` and `.html` are added."""
        return self.path / "compare"

    @property
    def forgetting(self) -> Path:
        """What the tuning has taken from the base: numbers, and every question with both answers."""
        return self.path / "forgetting.json"

    @property
    def before_after(self) -> Path:
        """Rows of the run's own data with the answers of base and tuned model, one line of JSON each."""
        return self.path / "before-after.jsonl"

    @property
    def verdict(self) -> Path:
        """What was said of the run at its end, as a list of [English, Chinese]."""
        return self.path / "verdict.json"

    @property
    def report(self) -> Path:
        """The report of the run, one page that needs nothing else."""
        return self.path / "report.html"

    def state(self, step: int) -> Path:
        """Everything that resuming after `step` optimizer steps needs."""
        return self.path / f"state-{step:06d}"

    def states(self) -> list[Path]:
        """The complete states, newest first."""
        if not self.path.is_dir():
            return []
        found = [entry for entry in self.path.iterdir() if STATE.fullmatch(entry.name) and entry.is_dir()]
        return sorted(found, key=step_of, reverse=True)

    def keep_newest(self, count: int, *, good: int | None = None) -> None:
        """Delete all states but the newest `count`, and the newest of step `good` or before; oldest first."""
        states = self.states()
        spared = [state for state in states if good is not None and step_of(state) <= good][:1]
        for state in reversed(states[count:]):
            if state not in spared:
                drop_state(state)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Be the one process that writes here; the system gives the folder free when the process ends, however it ends.

        Raises UserError where another process has it.
        """
        path = self.path / "lock"
        with translate_disk_errors(path):
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path, blocking=False)
            try:
                lock.acquire()
            except Timeout:
                raise UserError(
                    Bilingual(
                        f"{self.path}: {_holder(path)} trains in this folder. Wait for it, stop it, or choose another folder (output=...). "
                        "Evaluating and comparing work meanwhile.",
                        "已有进程正在该目录中训练：请等待或停止它，或换一个目录（output=...）。期间仍可评估和对照。",
                    )
                ) from None
            path.write_text(f"{os.getpid()}\n", encoding="ascii")
        try:
            yield
        finally:
            with suppress(OSError):
                if [entry.name for entry in self.path.iterdir()] == [path.name]:  # nothing came of it: leave no folder behind
                    path.unlink()
                    self.path.rmdir()
            lock.release()


def drop_state(state: Path) -> None:
    """Delete a state, under a leftover's name first: a kill leaves no half of it."""
    with translate_disk_errors(state):
        doomed = state.with_name(f".{state.name}.part")
        state.rename(doomed)
        shutil.rmtree(doomed)


def set_aside(state: Path) -> Path:
    """Give a damaged state a name under which nobody goes on from it; returns the new place."""
    with translate_disk_errors(state):
        place = state.with_name(f"{state.name}.damaged")
        if place.exists():
            shutil.rmtree(place)
        return state.rename(place)


def _holder(lock: Path) -> str:
    try:
        return f"process {int(lock.read_text(encoding='ascii'))}"
    except (OSError, ValueError):  # written in this moment, or on a system where no other may read it
        return "another process"


def step_of(state: Path) -> int:
    """The optimizer steps done in a state: 500 for `state-000500`."""
    match = STATE.fullmatch(state.name)
    assert match, f"{state} is not the name of a state"
    return int(match[1])
