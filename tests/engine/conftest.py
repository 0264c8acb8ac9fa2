"""Runs of one process and of two, with every strategy: made once for all tests, also with several pytest workers."""

import importlib.util
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from filelock import FileLock

from tests.tiny import tiny_questions
from tests.worlds import Outcome, Start, world_folder, world_runs

FILE = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0, "overlap_comm": "auto"}, "fp16": {"enabled": "auto"}}
"""A DeepSpeed file with which every weight is sharded, however small."""
PREFIX, LORA = "tune={method: prefix, length: 4, start: random}", "tune={method: lora, rank: 2}"
DROPPED = "tune={method: prefix, length: 4, start: random, prefix_dropout: 0.3}"
WATCHED = ["train.watch_prompts=1", "train.watch_every=4"]
ASKED = "data.mix_general={rows: questions.txt, answers: base}"
TEXTS = "data={kind: texts, train: texts.jsonl, dev_share: 0.2, length: 16}"
MEANS = ["train.loss_average=micro_batch", "train.micro_batch_size=1"]
MEASURED = [
    "train.report=true",
    "forgetting.measure=true",
    "forgetting.limit=2",
    "forgetting.text_tokens=20",
    "forgetting.max_new_tokens=2",
]
FSDP, ZERO1, ZERO2, ZERO3 = "engine.fsdp=true", "engine.deepspeed=zero1", "engine.deepspeed=zero2", "engine.deepspeed=ds.json"
OFFLOAD, BFLOAT16, FLOAT16 = "engine.offload=true", "model.dtype=bfloat16", "model.dtype=float16"
FILES = r"\b(ds\.json|questions\.txt|texts\.jsonl)"
"""Files in the folder of the runs."""
BREAKING = [
    "optimizer={learning_rate: 4, warmup_steps: 100, warmup_from_zero: true, schedule: constant, weight_decay: 0.01}",
    *("train.steps=6", "train.save_every=1", "train.evaluate_every=1", "train.watch_prompts=1", "train.watch_every=1"),
]
"""Answers that were good become endless repetition at step 5, and the evaluation loss much worse: the run goes back."""
STARTS = (
    Start("alone", 1, MEASURED),
    Start("prefix", 1, [PREFIX]),
    Start("broken", 1, BREAKING),
    Start("texts", 1, [TEXTS]),
    Start("full-two", 2, ["engine.processes=2", *MEASURED]),
    Start("prefix-two", 2, [PREFIX]),
    Start("broken-two", 2, BREAKING),
    Start("texts-two", 2, [TEXTS], trick="dawdle"),
    Start("fsdp", 2, [FSDP, *WATCHED]),
    Start("fsdp-prefix", 1, [FSDP, PREFIX]),
    Start("by-turns", 1, ["train.steps=1"]),
    Start("by-turns", 2, [FSDP, "train.checkpointing=true", "train.steps=2"]),
    Start("by-turns", 1, ["train.steps=3"]),
)
ZEROS = (
    Start("zero2", 2, [ZERO2]),
    Start("zero3", 2, [ZERO3, *WATCHED]),
    Start("zero3-offload", 2, [ZERO3, OFFLOAD], trick="probe"),
    Start("zero3-one", 1, ["engine.deepspeed=zero3"]),
    Start("zero-prefix", 2, [PREFIX, ZERO2]),
)
RARER = (
    Start("alone", 1),
    Start("means", 1, MEANS),
    Start("means-two", 2, MEANS),
    Start("asked", 1, [ASKED]),
    Start("asked-two", 2, [ASKED]),
    Start("asked-fsdp", 2, [ASKED, FSDP]),
    Start("dropped", 2, [DROPPED]),
    Start("dropped-again", 2, [DROPPED, "train.steps=2"]),
    Start("dropped-again", 2, [DROPPED]),
    Start("half", 1, [BFLOAT16]),
    Start("other", 2, [ZERO3, "train.steps=2"]),
    Start("other", 2, [ZERO2, OFFLOAD]),
    Start("zero-prefix-three", 2, [PREFIX, ZERO3]),
    Start("fsdp-half", 2, [FSDP, BFLOAT16]),
    Start("zero-half", 2, [BFLOAT16, ZERO2]),
    Start("zero-half-three", 2, [BFLOAT16, ZERO3]),
    Start("lora", 1, [LORA]),
    Start("lora-two", 2, [LORA, ZERO1]),
    Start("zero1", 2, [ZERO1]),
    Start("zero2-offload", 2, [ZERO2, OFFLOAD]),
    Start("zero2-probed", 2, [ZERO2, OFFLOAD], trick="probe"),
    Start("zero3-probed", 2, [ZERO3], trick="probe"),
    Start("fsdp-probed", 2, [FSDP], trick="probe"),
    Start("by-turns-zero", 1, ["train.steps=1"]),
    Start("by-turns-zero", 2, [ZERO3, "train.steps=2"]),
    Start("by-turns-zero", 2, [ZERO2, "train.steps=3"]),
    Start("by-turns-zero", 1),
    Start("zero-empty", 2, [ZERO3], trick="empty"),
    Start("zero-float16", 2, [FLOAT16, ZERO2]),
    Start("empty", 1, trick="empty"),
    *(Start(f"empty-{number}", 2, [knob], trick="empty") for number, knob in enumerate(("engine.processes=2", FSDP, ZERO2))),
    Start("poisoned", 1, trick="poison"),
    *(
        Start(f"poisoned-{number}", 2, [knob], trick="poison")
        for number, knob in enumerate(("engine.processes=2", FSDP, ZERO1, ZERO2, ZERO3))
    ),
)


def made_once(factory: pytest.TempPathFactory, name: str, starts: Sequence[Start]) -> tuple[Path, dict[str, Outcome]]:
    """The folder of the runs, and the outcome of each run's last start."""
    home = factory.getbasetemp()
    home = home.parent if "PYTEST_XDIST_WORKER" in os.environ else home
    folder = home / name
    with FileLock(home / f"{name}.lock"):
        file = folder / "outcomes.json"
        if not file.is_file():
            world_folder(folder)
            tiny_questions(folder / "questions.txt")
            (folder / "ds.json").write_text(json.dumps(FILE), encoding="utf-8")
            placed = [replace(one, overrides=[re.sub(FILES, rf"{folder}/\1", knob) for knob in one.overrides]) for one in starts]
            file.write_text(json.dumps([asdict(outcome) for outcome in world_runs(folder, placed)]), encoding="utf-8")
        results = [Outcome(**fields) for fields in json.loads(file.read_text(encoding="utf-8"))]
    return folder, {one.name: outcome for one, outcome in zip(starts, results, strict=True)}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Outcome]]:
    """The usual runs; those with DeepSpeed only if it is installed."""
    return made_once(tmp_path_factory, "worlds", STARTS + (ZEROS if importlib.util.find_spec("deepspeed") else ()))


@pytest.fixture(scope="session")
def outcomes(runs: tuple[Path, dict[str, Outcome]]) -> dict[str, Outcome]:
    """The outcomes of the usual runs, by name."""
    return runs[1]


@pytest.fixture(scope="session")
def folder(runs: tuple[Path, dict[str, Outcome]]) -> Path:
    """The folder of the usual runs."""
    return runs[0]


@pytest.fixture(scope="session")
def rarer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Outcome]]:
    """The runs of long tests."""
    return made_once(tmp_path_factory, "rarer-worlds", RARER)
