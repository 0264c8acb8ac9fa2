"""Training in one process and in several, forked from one that has imported everything: a start costs a tenth of a second, not five.

    python -m tests.worlds FOLDER STARTS.json

STARTS.json is a list of starts, one after the other: the run's name, the number of processes, and overrides of the recipe. Prints a list of
what came of each as JSON: exit statuses, losses, norms of gradients, and the end of what was said.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import imprint.engine.world as world
import imprint.training.run as training
from imprint.data.dataset import DataSplits
from imprint.data.section import TextsSection
from imprint.data.texts import load_texts
from imprint.engine.engine import Engine
from imprint.events import Evaluation, Event, Step, read_events
from imprint.runs import RunFolder
from imprint.tokenizers import Tokenizer
from imprint.training import job, step
from imprint.training.job import TrainJob
from imprint.training.memory import MicroBatch, probe_memory
from imprint.training.run_log import RunLog
from imprint.training.state import TrainProgress
from tests.killing import Prepare, blank_pictures, end, ready_to_fork, start
from tests.tiny import tiny_base, tiny_rows

RECIPE = """\
output: {folder}/run
model: {{path: {folder}/base, device: cpu}}
data: {{train: {folder}/rows.jsonl, dev_share: 0.2, max_target_length: 24}}
tune: {{method: full}}
optimizer: {{learning_rate: 0.01, warmup_steps: 0, schedule: constant, weight_decay: 0.01}}
train: {{steps: 4, batch_size: 9, micro_batch_size: 2, save_every: 2, evaluate_every: 2, watch_prompts: 0, keep_states: 9, report: false}}
forgetting: {{measure: false}}
"""
"""Steps of 9, 9 and 1 of the 19 rows: two processes have 3 and 2 micro-batches of the 9, and one of them has no row of the 1."""
IMPORTED_ONCE = ("imprint.training.run", "torch._dynamo", "torch.distributed")
IF_ASKED_FOR = {
    "engine.deepspeed": (
        "deepspeed",
        "deepspeed.ops.op_builder.all_ops",  # which imports setuptools
        "deepspeed.runtime.zero.muon.muon_optimizer",  # which imports torch's compiler, for seconds
        "deepspeed.runtime.superoffload.superoffload_stage3",
        "deepspeed.module_inject.auto_ep_layer",
    ),
    "engine.fsdp": ("torch.distributed.fsdp", "torch.distributed.device_mesh", "torch.distributed.tensor"),
}


REFUSED = re.compile(r'DeepSpeed says that it cannot compute in "\w+" on this device \(\w+\)')


@dataclass(frozen=True)
class Start:
    """One start of the command."""

    name: str
    """Of the run's folder."""
    processes: int
    """How many there are."""
    overrides: Sequence[str] = ()
    """Of the recipe."""
    words: Sequence[str] = ()
    """Another command than `train`, whole; the run's name is then its folder below the one of the tests."""
    trick: str = ""
    """What of `TRICKS` is done to it first."""


@dataclass(frozen=True)
class Outcome:
    """What came of a start."""

    statuses: list[int]
    """Exit status of each process."""
    losses: list[float | None]
    """Of training and evaluation, in their order, over all starts in the folder."""
    norms: list[float | None]
    """Of the gradients."""
    words: str
    """The end of what was said."""


def world_runs(folder: Path, starts: Sequence[Start]) -> list[Outcome]:
    """Make the starts in a process of their own; called by tests."""
    plan = folder / "starts.json"
    plan.write_text(json.dumps([asdict(one) for one in starts]), encoding="utf-8")
    command = [sys.executable, "-m", "tests.worlds", str(folder), str(plan)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return [Outcome(**one) for one in json.loads(done.stdout.splitlines()[-1])]


def skip_where_refused(words: str) -> None:
    """Skip a test where DeepSpeed has no arithmetic of the run's type on this processor."""
    if refused := REFUSED.search(words):
        pytest.skip(refused[0])


def world_folder(folder: Path) -> Path:
    """Base, rows and recipe; returns the recipe's path."""
    tiny_base(folder / "base")
    rows = tiny_rows(folder / "rows.jsonl")
    texts = [json.loads(line)["summary"] for line in rows.read_text(encoding="utf-8").splitlines()]
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(folder=folder), encoding="utf-8")
    return recipe


def losses_of(events: Sequence[Event]) -> list[float | None]:
    """The losses of steps and evaluations, in their order."""
    return [event.loss if isinstance(event, Step) else event.eval_loss for event in events if isinstance(event, Step | Evaluation)]


def make(one: Start, folder: Path) -> Outcome:
    """One start, as many processes as it says."""
    run = RunFolder(folder / one.name)
    command = list(one.words) or ["train", str(folder / "recipe.yaml"), f"output={run.path}", *one.overrides]
    screens = [folder / f"{run.path.name}-{rank}.txt" for rank in range(one.processes)]
    port = free_port()
    children = [start(command, screen, place(rank, one, port)) for rank, screen in enumerate(screens)]
    statuses = [end(child) for child in children]
    log = read_events(run)
    losses = losses_of(log)
    norms = [event.gradient_norm for event in log if isinstance(event, Step)]
    return Outcome(statuses, losses, norms, "\n".join(screen.read_text(encoding="utf-8")[-5000:] for screen in screens))


def place(rank: int, one: Start, port: int) -> Prepare:
    """In the child: take a place among so many."""
    count = one.processes
    found = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1"}

    def prepare() -> None:
        if count > 1:
            os.environ.update({name: str(value) for name, value in {**found, "MASTER_PORT": port}.items()})
        if one.trick:
            TRICKS[one.trick]()

    return prepare


def probe_first() -> None:
    """From now on a run on the CPU tries its heaviest rows, too."""

    def probing(job: TrainJob, progress: TrainProgress, run_log: RunLog) -> None:
        probe_memory(job.tuner, job.engine, job.split.train, job.recipe.train.micro_batch_size, job.token_budget, run_log.memory_notice)

    setattr(training, "probe_longest_rows", probing)  # noqa: B010


def poison_second() -> None:
    """From now on the first loss of the second step is no number, in one process."""
    if os.environ.get("RANK") == "0":
        return
    backward = Engine.backward
    passed: list[bool] = []

    def poisoned(engine: Engine, loss: Tensor, *, last: bool) -> None:
        backward(engine, loss * torch.nan if passed.count(True) == 1 and passed[-1] else loss, last=last)
        passed.append(last)

    setattr(Engine, "backward", poisoned)  # noqa: B010


def empty_second() -> None:
    """From now on no token of the second step is a target."""
    micro_batches = step.micro_batches
    steps: list[int] = []

    def nothing(job: TrainJob, rows: Sequence[int], tokens: int) -> list[MicroBatch]:
        steps.append(tokens)
        return micro_batches(job, rows, 0 if len(steps) == 2 else tokens)

    setattr(step, "micro_batches", nothing)  # noqa: B010


def dawdle() -> None:
    """From now on the leader needs three seconds to tokenize, and the others wait one for any word from it."""
    setattr(world, "TIMEOUT", timedelta(seconds=1))  # noqa: B010
    setattr(world, "HEARTBEAT_SECONDS", 0.2)  # noqa: B010

    def slowly(section: TextsSection, tokenizer: Tokenizer, folder: Path) -> DataSplits:
        if os.environ.get("RANK") == "0":
            time.sleep(3)
        return load_texts(section, tokenizer, folder)

    setattr(job, "load_texts", slowly)  # noqa: B010


TRICKS = {"dawdle": dawdle, "probe": probe_first, "poison": poison_second, "empty": empty_second}


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def make_all(arguments: list[str]) -> list[dict[str, Any]]:
    """Make the starts of a file."""
    folder, plan = Path(arguments[0]), json.loads(Path(arguments[1]).read_text(encoding="utf-8"))
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    shared = [name for knob, names in IF_ASKED_FOR.items() if knob in str(plan) for name in names if find_spec(name.partition(".")[0])]
    ready_to_fork([*IMPORTED_ONCE, *shared])
    blank_pictures()
    return [asdict(make(Start(**one), folder)) for one in plan]


if __name__ == "__main__":
    print(json.dumps(make_all(sys.argv[1:])))  # noqa: T201
