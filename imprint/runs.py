"""The run folder: the hand-over between commands, and the only place that knows the names of what is in it."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

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
    def samples(self) -> Path:
        """What the model answered to the watched prompts, one line of JSON each."""
        return self.path / "samples.jsonl"

    @property
    def evaluations(self) -> Path:
        """A folder for each evaluation of this run: predictions and scores."""
        return self.path / "evaluations"

    @property
    def comparison(self) -> Path:
        """The comparison of base and tuned model, without its ending: `.md` and `.html` are added."""
        return self.path / "compare"

    def state(self, step: int) -> Path:
        """Everything that resuming after `step` optimizer steps needs."""
        return self.path / f"state-{step:06d}"

    def states(self) -> list[Path]:
        """The complete states, newest first."""
        if not self.path.is_dir():
            return []
        found = [entry for entry in self.path.iterdir() if STATE.fullmatch(entry.name) and entry.is_dir()]
        return sorted(found, key=step_of, reverse=True)

    def keep_newest(self, count: int) -> None:
        """Delete all states but the newest `count`; oldest first, each under a leftover's name."""
        for state in reversed(self.states()[count:]):
            doomed = state.with_name(f".{state.name}.part")
            state.rename(doomed)
            shutil.rmtree(doomed)


def step_of(state: Path) -> int:
    """The optimizer steps done in a state: 500 for `state-000500`."""
    match = STATE.fullmatch(state.name)
    assert match, f"{state} is not the name of a state"
    return int(match[1])
