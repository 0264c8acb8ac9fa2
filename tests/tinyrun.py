"""A recipe on the tiny model, and what its run leaves."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors.torch import load_file
from torch import Tensor

from imprint.cli import main
from imprint.files.atomic import read_jsonl
from imprint.runs import RunFolder
from imprint.training.run import train
from tests.tiny import tiny_base, tiny_rows

TIMES = ("seconds", "tokens_per_second", "memory_gib")
RECIPE = """\
output: {folder}/run
model: {{path: {folder}/base, device: cpu}}
data: {{train: {folder}/rows.jsonl, dev_share: 0.2, max_target_length: 24}}
tune: {{method: prefix, length: 4, text: 类型, prefix_dropout: 0.1}}
optimizer: {{learning_rate: 0.1, warmup_steps: 2}}
train: {{steps: 6, batch_size: 4, micro_batch_size: 4, save_every: 1, keep_states: 9, evaluate_every: 3, watch_every: 3, report: false}}
forgetting: {{measure: false}}
"""


def tiny_recipe(folder: Path) -> Path:
    """A recipe with its base and rows, for runs of six steps in `folder/run`."""
    tiny_base(folder / "base")
    tiny_rows(folder / "rows.jsonl")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(folder=folder), encoding="utf-8")
    return recipe


def tiny_run(recipe: Path, name: str, *overrides: str) -> RunFolder:
    """Train in the folder of that name beside the recipe."""
    return train(recipe, [f"output={recipe.parent / name}", *overrides])


def train_again(run: RunFolder, *overrides: str) -> int:
    """The same command once more."""
    return main(["train", str(run.config), *overrides])


def log_of(run: RunFolder) -> list[dict[str, Any]]:
    """The lines of a log without times and memory, and without what is said of a resume."""
    lines = [line for line in read_jsonl(run.log) if line.get("source") != "resume"]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def losses(run: RunFolder, name: str = "loss") -> list[float | None]:
    """The numbers of that name in a log."""
    return [line[name] for line in read_jsonl(run.log) if name in line]


def learned_tensors(run: RunFolder, step: int) -> dict[str, Tensor]:
    """The trained tensors of the state saved after a step."""
    return load_file(run.state(step) / "trained.safetensors")


def described(run: RunFolder) -> dict[str, Any]:
    """What adapter.json says."""
    return dict(json.loads((run.adapter / "adapter.json").read_text(encoding="utf-8")))


def talking_run(folder: Path) -> RunFolder:
    """A prefix run on a base that answers the tiny rows: at once the tiny base, tuned as a whole, and no chance answers.

    The prefix has learned one answer to all of them, so that on whatever processor it says something else than its base.

    `folder` is one of pytest's; the run is made once for all tests, whichever process they run in, and copied.
    """
    made = (folder.parent.parent if "PYTEST_XDIST_WORKER" in os.environ else folder.parent) / "talking"
    with FileLock(made.with_suffix(".lock")):
        if not made.exists():
            made.mkdir()
            _make_talking(made)
    shutil.copytree(made, folder, dirs_exist_ok=True)
    for file in [*folder.glob("*.yaml"), *folder.glob("*/*.yaml"), *folder.glob("*/adapter/*.json")]:
        file.write_text(file.read_text(encoding="utf-8").replace(str(made), str(folder)), encoding="utf-8")
    return RunFolder(folder / "run")


def _make_talking(folder: Path) -> None:
    recipe = tiny_recipe(folder)
    ends = [f"train.{name}_every=120" for name in ("save", "evaluate", "watch")]
    other = folder / "other.jsonl"
    rows = (folder / "rows.jsonl").read_text(encoding="utf-8")
    other.write_text(re.sub(r'"这件[^"]*"', '"这件上衣的颜色是红色，版型很宽松。"', rows), encoding="utf-8")
    knobs = ["tune={method: full}", "optimizer.learning_rate=0.01", "train.steps=120", "train.batch_size=8", "data.dev_share=0", *ends]
    base = tiny_run(recipe, "talk", *knobs).model
    knobs = ["tune.start=random", "tune.length=8", "optimizer.learning_rate=1.0", "train.steps=40", *ends]
    tiny_run(recipe, "run", f"model.path={base}", f"data.train={other}", *knobs)
