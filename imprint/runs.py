"""The run folder, through which commands exchange files; only this module knows their names."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from imprint.files.disk_errors import translate_disk_errors
from imprint.files.links import refuse_special_entries
from imprint.messages import Bilingual, UserError

STARTER_OUTPUT = "run"
"""The name of the run in a folder of `imprint init`."""
LOCK_SECONDS = 0.5
"""How long a start waits for the lock: `is_locked` holds it for an instant."""
STATE = re.compile(r"state-(\d{6,})")
OWN_NAMES = frozenset(
    (
        *("lock", "config.yaml", "log.jsonl", "samples.jsonl", "rescues.jsonl", "verdict.json", "forgetting.json", "before-after.jsonl"),
        *("loss.png", "report.html", "starts.jsonl", "adapter", "model", "tokens", "events", "evaluations"),
        *("general-answers.jsonl", "held-out.json", "learned-rows.bin"),
    )
)
"""What a run reads and writes in its folder, besides its states and comparisons."""


@dataclass(frozen=True)
class RunFolder:
    """The paths in a run folder; creating one writes nothing."""

    path: Path
    """The run folder itself."""

    @property
    def title(self) -> str:
        """Its name on a page: that of the folder, after that of the parent where all such folders are named `run`."""
        path = self.path.absolute()
        return f"{path.parent.name}/{path.name}" if path.name == STARTER_OUTPUT and path.parent.name else path.name

    def uses(self, name: str) -> bool:
        """Whether a run reads or writes something of this name in its folder."""
        return name in OWN_NAMES or STATE.match(name) is not None

    @property
    def config(self) -> Path:
        """The recipe with every knob resolved, written when training starts; a folder without it is no run."""
        return self.path / "config.yaml"

    @property
    def log(self) -> Path:
        """The events of the run, one line of JSON each; see `imprint.events`."""
        return self.path / "log.jsonl"

    @property
    def starts(self) -> Path:
        """When and by which commands the run was started, one line of JSON each; see `imprint.report.starts`."""
        return self.path / "starts.jsonl"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's folder."""
        return self.path / "events"

    @property
    def curve(self) -> Path:
        """A plot of the loss."""
        return self.path / "loss.png"

    @property
    def adapter(self) -> Path:
        """The best adapter so far, replaced by a better one: read it through `imprint.files.find_folder`."""
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """The best model so far if all parameters are tuned: a complete model folder."""
        return self.path / "model"

    @property
    def tokens(self) -> Path:
        """Token ids of raw text, if the run trains on raw text."""
        return self.path / "tokens"

    @property
    def held_out(self) -> Path:
        """Which rows of the training file are held out, written when training starts."""
        return self.path / "held-out.json"

    @property
    def learned_rows(self) -> Path:
        """Which rows the run learns from, written when training starts; see `imprint.data.learned_rows`."""
        return self.path / "learned-rows.bin"

    @property
    def general_answers(self) -> Path:
        """The base's own answers to general questions, which the run learns, one line of JSON each."""
        return self.path / "general-answers.jsonl"

    @property
    def samples(self) -> Path:
        """Answers to the watched prompts during training, one line of JSON each."""
        return self.path / "samples.jsonl"

    @property
    def rescues(self) -> Path:
        """Rescues after a divergence, one line of JSON each."""
        return self.path / "rescues.jsonl"

    @property
    def evaluations(self) -> Path:
        """A folder per evaluation of this run: predictions and scores."""
        return self.path / "evaluations"

    @property
    def comparison(self) -> Path:
        """The comparison of base and tuned model, without its suffix: `.md` and `.html` are added."""
        return self.path / "compare"

    @property
    def forgetting(self) -> Path:
        """The measured forgetting: figures, and every question with both answers."""
        return self.path / "forgetting.json"

    @property
    def before_after(self) -> Path:
        """Rows of the run's own data with the answers of base and tuned model, one line of JSON each."""
        return self.path / "before-after.jsonl"

    @property
    def verdict(self) -> Path:
        """The summary messages at the end of the run, as a list of [English, Chinese]."""
        return self.path / "verdict.json"

    @property
    def report(self) -> Path:
        """The report of the run, one self-contained HTML page."""
        return self.path / "report.html"

    def state(self, step: int) -> Path:
        """The folder of everything needed to resume after `step` optimizer steps."""
        return self.path / f"state-{step:06d}"

    def states(self) -> list[Path]:
        """The complete states, newest first."""
        if not self.path.is_dir():
            return []
        folders = [entry for entry in self.path.iterdir() if STATE.fullmatch(entry.name) and entry.is_dir()]
        return sorted(folders, key=step_of, reverse=True)

    def keep_newest(self, count: int, *, good: int | None = None) -> None:
        """Delete all states but the newest `count` and the newest up to step `good`; oldest first."""
        states = self.states()
        kept = [state for state in states if good is not None and step_of(state) <= good][:1]
        for state in reversed(states[count:]):
            if state not in kept:
                remove_state(state)

    def refuse_special_entries(self) -> None:
        """Raise UserError if a file or folder of the run is a link that leads out of it, or a pipe: it may be untrusted."""
        if self.path.is_dir():
            for entry in sorted(self.path.iterdir()):
                if entry.name.startswith(".") or self.uses(entry.name):
                    refuse_special_entries(self.path, entry)

    def is_locked(self) -> bool:
        """Whether a process trains in this folder."""
        import fcntl  # as filelock does; not on Windows

        try:
            with (self.path / "lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder for one writing process; the operating system releases the lock when the process ends.

        Raises UserError if another process holds the lock.
        """
        path = self.path / "lock"
        with translate_disk_errors(path):
            self.path.mkdir(parents=True, exist_ok=True)
            self.refuse_special_entries()
            lock = FileLock(path)
            try:
                lock.acquire(timeout=LOCK_SECONDS, poll_interval=LOCK_SECONDS / 10)
            except Timeout:
                raise UserError(
                    Bilingual(
                        f"{self.path}: {_owner(path)} trains in this folder. Wait for it, stop it, or choose another folder (output=...). "
                        "Evaluating and comparing work meanwhile.",
                        f"{self.path}：已有进程正在该目录中训练：请等待或停止它，或换一个目录（output=...）。期间仍可评估和对照。",
                    )
                ) from None
            path.write_text(f"{os.getpid()}\n", encoding="ascii")
        try:
            yield
        finally:
            with suppress(OSError):
                if [entry.name for entry in self.path.iterdir()] == [path.name]:  # nothing was written: leave no folder behind
                    path.unlink()
                    self.path.rmdir()
            lock.release()


def remove_state(state: Path) -> None:
    """Delete a state; it is renamed first, so that a killed process leaves no half of it."""
    with translate_disk_errors(state):
        temporary = state.with_name(f".{state.name}.part")
        state.rename(temporary)
        shutil.rmtree(temporary)


def mark_damaged(state: Path) -> Path:
    """Rename a damaged state so that nothing resumes from it; returns the new path."""
    with translate_disk_errors(state):
        damaged = state.with_name(f"{state.name}.damaged")
        if damaged.exists():
            shutil.rmtree(damaged)
        return state.rename(damaged)


def _owner(lock: Path) -> str:
    try:
        return f"process {int(lock.read_text(encoding='ascii'))}"
    except (OSError, ValueError):  # being written, or not readable by other processes on this system
        return "another process"


def step_of(state: Path) -> int:
    """The optimizer steps of a state: 500 for `state-000500`."""
    match = STATE.fullmatch(state.name)
    assert match, f"{state} is not the name of a state"
    return int(match[1])
