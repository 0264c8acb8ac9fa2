"""Fixtures of the tests of training: a recipe on the tiny model, a finished run of it, signals in the middle of a step."""

import os
import shutil
from pathlib import Path

import pytest

import imprint.training.run as training
from imprint.files.atomic import read_jsonl, write_jsonl
from imprint.runs import RunFolder
from imprint.training.job import TrainJob
from imprint.training.run_log import RunLog
from imprint.training.state import TrainProgress
from imprint.training.step import StepBatches, train_step
from tests.tinyrun import tiny_recipe, tiny_run


@pytest.fixture(scope="module")
def recipe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe for runs of six steps, in a folder of the test file's own."""
    return tiny_recipe(tmp_path_factory.mktemp(request.module.__name__.rpartition("_")[2]))


@pytest.fixture(scope="module")
def whole(recipe: Path) -> RunFolder:
    """A run that was never interrupted."""
    return tiny_run(recipe, "whole")


@pytest.fixture
def killed(whole: RunFolder, recipe: Path, tmp_path: Path) -> RunFolder:
    """A run of six steps that was killed behind the state of step 4, on data and a base of its own."""
    shutil.copytree(recipe.parent / "base", tmp_path / "base")
    shutil.copy(recipe.parent / "rows.jsonl", tmp_path / "rows.jsonl")
    shutil.copytree(whole.path, tmp_path / "run")
    copy = RunFolder(tmp_path / "run")
    for step in (5, 6):
        shutil.rmtree(copy.state(step))
    events = [event for event in read_jsonl(copy.log) if event["step"] <= 5 and event["event"] != "finished"]
    write_jsonl(copy.log, events)
    config = copy.config.read_text(encoding="utf-8").replace(str(recipe.parent), str(tmp_path)).replace("/whole", "/run")
    copy.config.write_text(config, encoding="utf-8")
    return copy


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(step, signal) pairs that the process sends itself in the middle of a step."""
    wanted: list[tuple[int, int]] = []
    step = train_step

    def noisy(job: TrainJob, progress: TrainProgress, run_log: RunLog, batches: StepBatches) -> TrainProgress:
        for at, number in wanted:
            if at == progress.step:
                os.kill(os.getpid(), number)
        return step(job, progress, run_log, batches)

    monkeypatch.setattr(training, "train_step", noisy)
    return wanted
