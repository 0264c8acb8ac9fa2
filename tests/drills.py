"""The kill drills: a command that is killed again and again, and started again as it was, must end as one that nobody killed.

    python -m tests.drills train FOLDER --kills 60 --seed 0     training, killed at random moments
    python -m tests.drills lora FOLDER --kills 60 --seed 0      the same with a LoRA, whose dropout draws in every linear
    python -m tests.drills sweep FOLDER                         a short run, killed once before every single change on the disk
    python -m tests.drills rescue FOLDER --kills 20             training that explodes in its middle and goes back to a good state, killed
    python -m tests.drills evaluate FOLDER --kills 10           answering, killed at random moments
    python -m tests.drills quantize FOLDER --kills 10           a base written in 4 bits, killed at random moments
    python -m tests.drills convert FOLDER --kills 10            a file of rows written as another, killed at random moments
    python -m tests.drills disk FOLDER --every 5                no kills: the disk refuses every fifth change, or files above a size
    python -m tests.drills all FOLDER --kills 100                so many kills over training, rescue, evaluating, quantizing and converting
    python -m tests.drills short FOLDER                         stops, a few kills of training and of evaluating, refusals of the disk
    python -m tests.drills lora FOLDER --knobs model.device=cuda model.path=embedded
                                                                training on a GPU with its kernels and graphs

Each prints one line of JSON; that of `short` has an entry for each of its four.
Everything is imported once and every start is a fork: a start costs a tenth of a second instead of three.
Training drops parts of the prefix at random and starts from random numbers, so that a random state that is lost changes the losses.
"""

import argparse
import errno
import importlib
import json
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from imprint.engine.engine import Engine
from imprint.files.atomic import find_folder, read_jsonl
from imprint.metrics.means import score
from imprint.runs import RunFolder
from tests.killing import (
    REFUSED,
    Prepare,
    blank_pictures,
    end,
    kill_before_change,
    killed,
    line_count,
    ready_to_fork,
    refuse_changes,
    slow_disk,
    small_files,
    start,
)
from tests.stops import stops
from tests.tiny import tiny_base, tiny_rows

RECIPE = """\
output: {folder}/run
model: {{path: {folder}/base, device: cpu}}
data: {{train: {folder}/rows.jsonl, dev_share: 0.2, max_target_length: 24}}
tune: {{method: prefix, length: 4, start: random, prefix_dropout: 0.1}}
optimizer: {{learning_rate: 0.5, warmup_steps: 2}}
train: {{steps: 24, batch_size: 4, micro_batch_size: 2, save_every: 1, evaluate_every: 3, watch_every: 6, watch_prompts: 1, report: false}}
forgetting: {{measure: false}}
"""
LORA = ["tune={method: lora, rank: 4, start: gaussian, targets: all, dropout: 0.1, plus_ratio: 4.0}", "optimizer.learning_rate=0.02"]
SHORT = ["train.steps=3", "train.keep_states=1", "train.evaluate_every=2", "train.watch_every=2"]
RESCUED = ["model.path=embedded", "optimizer.learning_rate=0.05", "train.steps=18", "train.evaluate_every=6", "train.watch_prompts=0"]
TIMES = ("seconds", "tokens_per_second", "memory_gib")
CORRUPTED_STEP = 8
SIZES = (2000, 9000, 40000)
IMPORTED_ONCE = (
    "imprint.training.run",
    "imprint.evaluate.command",
    "imprint.evaluate.compare",
    "torch._dynamo",
    "imprint.export.command",
    "imprint.evaluate.review",
    "imprint.check.convert",
)

ADAPTERS = ({"adapter.json", "prefix.safetensors"}, {"adapter.json", "adapter_config.json", "adapter_model.safetensors"})
"""The files of a complete adapter."""

Ending = dict[str, Any]


@dataclass
class Drill:
    """What came of a drill."""

    runs: int = 0
    """Runs that were brought to their end."""
    starts: int = 0
    """Commands started for that."""
    kills: int = 0
    """How many of them were killed."""
    in_a_save: int = 0
    """Kills that left something half written under its dotted name; of an evaluation: that left answers to go on from."""
    equal: int = 0
    """Runs that ended as the one that nobody killed."""
    broken: list[str] = field(default_factory=list)
    """What was wrong, in words; empty if all is well."""
    seconds: float = 0.0
    """How long it took."""


def prepare_folder(folder: Path) -> Path:
    """Base, rows and recipe; returns the recipe's path."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_base(folder / "base")
    tiny_rows(folder / "rows.jsonl")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(folder=folder), encoding="utf-8")
    return recipe


def ending_of(run: RunFolder) -> Ending:
    """All that a run leaves, but for times and memory, of which a GPU has more or less free at each start."""
    log = [{name: value for name, value in line.items() if name not in TIMES} for line in read_jsonl(run.log)]
    log = [line for line in log if line["event"] != "notice" or " GiB" not in line["english"]]
    files = {}
    for folder in (run.adapter, *run.states()):
        for file in sorted(folder.iterdir()):
            if file.name == "position.json":
                files[f"{folder.name}/{file.name}"] = repr({**json.loads(file.read_text()), "seconds": 0})
            else:
                files[f"{folder.name}/{file.name}"] = file.read_bytes().hex()
    others = [entry.name for entry in run.path.iterdir() if entry.name.startswith(".")]
    logs = {"samples": read_jsonl(run.samples), "rescues": read_jsonl(run.rescues)}
    return {"log": log, **logs, "files": files, "leftovers": others}


def incomplete(run: RunFolder) -> list[str]:
    """What is incomplete in a run folder though it carries its final name."""
    wrong = []
    for state in run.states():
        if len(list(state.iterdir())) != 4:
            wrong.append(f"{state.name} is incomplete")
    adapter = find_folder(run.adapter)
    if adapter is not None and {file.name for file in adapter.iterdir()} not in ADAPTERS:
        wrong.append("adapter is incomplete")
    return wrong


def half_written(run: RunFolder) -> bool:
    """Whether the killed process was in the middle of a save."""
    return run.path.is_dir() and any(entry.name.startswith(".") for entry in run.path.iterdir())


def differences(one: Ending, other: Ending) -> list[str]:
    """Where two endings differ, in words."""
    found = [name for name in one if name != "files" and one[name] != other[name]]
    names = sorted(set(one["files"]) | set(other["files"]))
    return found + [name for name in names if one["files"].get(name) != other["files"].get(name)]


class TrainDrill:
    """Runs of one recipe, each in a folder of its own, beside one that nobody kills."""

    def __init__(self, folder: Path, seed: int, overrides: Sequence[str]) -> None:
        self.recipe, self.folder = prepare_folder(folder), folder
        self.rng = random.Random(seed)
        self.overrides = overrides
        self.drill = Drill()
        assert end(start(self.command("whole"), folder / "whole.txt")) == 0, (folder / "whole.txt").read_text()
        self.expected = ending_of(RunFolder(folder / "whole"))

    def command(self, name: str) -> list[str]:
        """What is typed for the run of that name."""
        return ["train", str(self.recipe), f"output={self.folder / name}", *self.overrides]

    def before_change(self, name: str, number: int) -> bool:
        """Start a run that dies right before that change on the disk; False if it came to its end."""
        prepare = kill_before_change(number, self.folder / name)
        return self.note(name, killed=end(start(self.command(name), self.output_file(name), prepare)) == -signal.SIGKILL)

    def at_random(self, name: str) -> bool:
        """One start, killed somewhere in the next steps: by the clock, by the clock on a slow disk, or before some change on the disk."""
        way = self.rng.choice(("clock", "slow", "change"))
        if way == "change":
            return self.before_change(name, self.rng.randint(1, 250))
        log = RunFolder(self.folder / name).log
        lines = self.rng.choice((0, line_count(log) + self.rng.randint(1, 8)))  # 0: before the first step, or soon after
        child = start(self.command(name), self.output_file(name), slow_disk if way == "slow" else None)
        return self.note(name, killed=killed(child, log, lines, self.rng.uniform(0, 0.03 if lines else 0.15)))

    def note(self, name: str, *, killed: bool) -> bool:
        """Count a start and what the kill left behind."""
        run = RunFolder(self.folder / name)
        self.drill.starts += 1
        if killed:
            self.drill.kills += 1
            self.drill.in_a_save += half_written(run)
            self.drill.broken += [f"{name}: {what}" for what in incomplete(run)]
        return killed

    def output_file(self, name: str) -> Path:
        """Where a run's words go."""
        return self.folder / f"{name}.txt"

    def finish(self, name: str) -> None:
        """Start a run once more, let it end, and compare."""
        status = end(start(self.command(name), self.output_file(name)))
        self.drill.starts += 1
        self.drill.runs += 1
        if status:
            self.drill.broken.append(f"{name}: exit status {status}: {self.output_file(name).read_text()[-300:]}")
            return
        found = differences(self.expected, ending_of(RunFolder(self.folder / name)))
        self.drill.equal += not found
        self.drill.broken += [f"{name}: {what} differs" for what in found]


def train_drill(folder: Path, kills: int, seed: int, knobs: Sequence[str] = ()) -> Drill:
    """Runs that are killed three to six times each, until there were so many kills."""
    return killed_runs(TrainDrill(folder, seed, knobs), kills)


def lora_drill(folder: Path, kills: int, seed: int, knobs: Sequence[str] = ()) -> Drill:
    """The same with a LoRA."""
    importlib.import_module("imprint.tune.lora.layer")
    return killed_runs(TrainDrill(folder, seed, [*LORA, *knobs]), kills)


def killed_runs(drill: TrainDrill, kills: int) -> Drill:
    """Go on until there were so many kills or something is broken."""
    while drill.drill.kills < kills and not drill.drill.broken:
        name = f"run-{drill.drill.runs}"
        for _time in range(drill.rng.randint(3, 6)):
            if not drill.at_random(name):
                break
        drill.finish(name)
    return drill.drill


def sweep_drill(folder: Path, seed: int) -> Drill:
    """A short run for every change on the disk, killed right before it; the second start is killed somewhere too."""
    drill = TrainDrill(folder, seed, SHORT)
    number = 1
    while not drill.drill.broken:
        name = f"run-{number}"
        if not drill.before_change(name, number):
            break
        drill.before_change(name, drill.rng.randint(1, 80))
        drill.finish(name)
        number += 1
    return drill.drill


def corrupt_weights() -> None:
    """Break the weights once in every run: from now on a run explodes in its middle, until the guard has stepped in."""
    update = Engine.update

    def corrupted(engine: Engine, step: int, **how: Any) -> tuple[float, bool]:
        done = update(engine, step, **how)
        if step == CORRUPTED_STEP and engine.rate_scale == 1:
            for parameter in engine.parameters.values():
                parameter.data += 100 * torch.randn_like(parameter)
        return done

    setattr(Engine, "update", corrupted)  # noqa: B010


def rescue_drill(folder: Path, kills: int, seed: int, knobs: Sequence[str] = ()) -> Drill:
    """As `train_drill`, with a rescue in the middle of each run."""
    update = Engine.update
    corrupt_weights()
    try:
        drill = killed_runs(TrainDrill(folder, seed, [*RESCUED, *knobs]), kills)
    finally:
        setattr(Engine, "update", update)  # noqa: B010
    rescues = read_jsonl(RunFolder(folder / "whole").rescues)
    if [rescue["back_to"] > 0 for rescue in rescues] != [True]:
        drill.broken.append(f"not the one rescue from the middle that was meant: {rescues}")
    return drill


def disk_drill(folder: Path, every: int) -> Drill:
    """Short runs on a disk that is full or read-only from some change on, or has no room for larger files; then with room again."""
    drill = TrainDrill(folder, 0, SHORT)
    troubles: list[tuple[str, Callable[[Path], Prepare]]] = [
        (f"size-{size}", lambda _folder, size=size: small_files(size))  # type: ignore[misc]
        for size in SIZES
    ]
    for code in REFUSED:
        troubles += [
            (f"{errno.errorcode[code]}-{number}", lambda place, number=number, code=code: refuse_changes(number, place, code))  # type: ignore[misc]
            for number in range(1, 140, every)
        ]
    for name, prepare in troubles:
        status = end(start(drill.command(name), drill.output_file(name), prepare(drill.folder / name)))
        said = drill.output_file(name).read_text(encoding="utf-8")
        drill.drill.starts += 1
        if status not in (0, 2) or "Traceback" in said or (status == 2 and ": cannot be written: " not in said):
            drill.drill.broken.append(f"{name}: exit status {status}: {said[-600:]}")
        drill.drill.broken += [f"{name}: {what}" for what in incomplete(RunFolder(drill.folder / name))]
        drill.finish(name)
    return drill.drill


def written_drill(folder: Path, kills: int, seed: int, command: Callable[[Path], list[str]], ending: str = "") -> Drill:
    """A command that writes one file or folder, killed so many times: what carries its name is complete, started again it is there."""
    prepare_folder(folder)
    rng, drill, whole = random.Random(seed), Drill(), folder / f"whole{ending}"
    output_file = folder / "written.txt"
    began = time.monotonic()
    assert end(start(command(whole), output_file)) == 0, output_file.read_text()
    seconds = time.monotonic() - began
    while drill.kills < kills and not drill.broken:
        out = folder / f"out-{drill.runs}{ending}"
        for _time in range(rng.randint(2, 4)):
            drill.starts += 1
            if rng.random() < 0.5:
                stopped = end(start(command(out), output_file, kill_before_change(rng.randint(1, 12), folder))) == -signal.SIGKILL
            else:
                stopped = killed(start(command(out), output_file), folder / "none", 0, rng.uniform(0, seconds))
            if not stopped:
                break
            drill.kills += 1
            drill.in_a_save += any(entry.name.startswith(".") for entry in folder.iterdir())
            if out.exists() and content_of(out) != content_of(whole):
                drill.broken.append(f"{out.name}: carries its name and is not complete")
        drill.starts += 1
        drill.runs += 1
        status = end(start(command(out), output_file))
        if left := [entry.name for entry in folder.iterdir() if entry.name.startswith(".")]:
            drill.broken.append(f"{out.name}: {left} is left")
        if status or content_of(out) != content_of(whole):
            drill.broken.append(f"{out.name}: exit status {status}: {output_file.read_text()[-300:]}")
        else:
            drill.equal += 1
    return drill


def content_of(path: Path) -> dict[str, bytes]:
    """The bytes of a file, or of each file of a folder."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name if path.is_dir() else "": file.read_bytes() for file in files}


def evaluate_drill(folder: Path, kills: int, seed: int) -> Drill:
    """Sampled answers to the rows, killed until so many kills, against answers that came in one go."""
    recipe, rng, drill = prepare_folder(folder), random.Random(seed), Drill()
    assert end(start(["train", str(recipe), *SHORT], folder / "train.txt")) == 0
    score(["热身"], ["热身"])  # reads jieba's dictionary, once for all children
    knobs = ["batch_size=3", "temperature=1.0", "top_p=0.9", "seed=5", "max_new_tokens=48"]

    def command(name: str) -> list[str]:
        return ["evaluate", str(folder / "run"), "--data", str(folder / "rows.jsonl"), *knobs, f"output={folder / name}"]

    def said(name: str) -> list[bytes]:
        return [(folder / name / file).read_bytes() for file in ("generated_predictions.txt", "predictions.jsonl")]

    assert end(start(command("whole"), folder / "whole.txt")) == 0, (folder / "whole.txt").read_text()
    while drill.kills < kills and not drill.broken:
        name = f"answers-{drill.runs}"
        for _time in range(rng.randint(2, 4)):
            drill.starts += 1
            kept = folder / name / "answers.jsonl"
            child = start(command(name), folder / f"{name}.txt")
            if not killed(child, kept, line_count(kept) + rng.randint(0, 8), rng.uniform(0, 0.02)):
                break
            drill.kills += 1
            drill.in_a_save += line_count(kept) > 1
        drill.starts += 1
        drill.runs += 1
        status = end(start(command(name), folder / f"{name}.txt"))
        if left := [entry.name for entry in (folder / name).iterdir() if entry.name.startswith(".")]:
            drill.broken.append(f"{name}: {left} is left")
        if status:
            drill.broken.append(f"{name}: exit status {status}: {(folder / f'{name}.txt').read_text()[-300:]}")
        elif said(name) == said("whole"):
            drill.equal += 1
        else:
            drill.broken.append(f"{name}: other answers")
    return drill


def drills_of(folder: Path, kills: int, seed: int, every: int = 5, knobs: Sequence[str] = ()) -> dict[str, Callable[[], Drill]]:
    """Every drill under its name; `knobs` are further ones of training."""
    base, rows = str(folder / "base"), str(folder / "rows.jsonl")
    return {
        "train": lambda: train_drill(folder, kills, seed, knobs),
        "lora": lambda: lora_drill(folder, kills, seed, knobs),
        "sweep": lambda: sweep_drill(folder, seed),
        "rescue": lambda: rescue_drill(folder, kills, seed, knobs),
        "evaluate": lambda: evaluate_drill(folder, kills, seed),
        "quantize": lambda: written_drill(folder, kills, seed, lambda out: ["quantize", base, str(out), "--bits", "4"]),
        "convert": lambda: written_drill(folder, kills, seed, lambda out: ["data", "convert", rows, str(out)], ".csv"),
        "disk": lambda: disk_drill(folder, every),
    }


def all_drills(folder: Path, kills: int, seed: int) -> dict[str, Drill]:
    """So many kills over everything that takes long, half of them in training."""
    parts = {"train": kills * 3 // 10, "rescue": kills // 5, "evaluate": kills // 5, "quantize": kills * 3 // 20}
    parts["convert"] = kills - sum(parts.values())
    return {what: timed(drills_of(folder / what, count, seed)[what]) for what, count in parts.items()}


def short_drills(folder: Path) -> dict[str, Drill]:
    """What `make test` does of each kind, in one process: to import everything takes longer than a drill."""
    drills = {
        "train": lambda: killed_runs(TrainDrill(folder / "train", 0, ["train.steps=12"]), 8),
        **{what: drills_of(folder / what, 3, 0, every=60)[what] for what in ("evaluate", "disk")},
    }
    return {what: timed(drill) for what, drill in drills.items()}


def timed(drill: Callable[[], Drill]) -> Drill:
    """What came of a drill, and how long it took."""
    began = time.monotonic()
    done = drill()
    done.seconds = round(time.monotonic() - began, 1)
    return done


def run_drill(arguments: list[str]) -> dict[str, Any]:
    """Read the command line and drill."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=[*drills_of(Path(), 0, 0), "all", "short"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--knobs", nargs="*", default=[], help="of train, lora and rescue")
    options = parser.parse_args(arguments)
    ready_to_fork(IMPORTED_ONCE)
    blank_pictures()
    if options.what == "short":
        options.folder.mkdir(parents=True, exist_ok=True)
        stopped = {"stops": stops(options.folder / "stops")}
        return {**stopped, **{what: asdict(drill) for what, drill in short_drills(options.folder).items()}}
    if options.what == "all":
        return summed(all_drills(options.folder, options.kills, options.seed))
    return asdict(timed(drills_of(options.folder, options.kills, options.seed, options.every, options.knobs)[options.what]))


def summed(drills: dict[str, Drill]) -> dict[str, Any]:
    """A table for the screen, and all of it in one."""
    for what, drill in drills.items():
        counts = f"{drill.runs:5d} {drill.kills:6d} {drill.in_a_save:7d} {drill.runs - drill.equal:5d} {drill.seconds:8.1f}"
        print(f"{what:10s}{counts}", file=sys.stderr)  # noqa: T201
    total = Drill()
    for drill in drills.values():
        for name, value in vars(drill).items():
            setattr(total, name, getattr(total, name) + value)
    return asdict(total)


if __name__ == "__main__":
    found = run_drill(sys.argv[1:])
    print(json.dumps(found, ensure_ascii=False))  # noqa: T201
    sys.exit(bool(found.get("broken")))
