import gc
import json
import shutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import imprint
import imprint.training.run as training
from imprint.cli import main
from imprint.engine.engine import Engine
from imprint.events import Rescued, read_events, read_rescues, write_rescue
from imprint.files.atomic import read_jsonl
from imprint.loading.load import load_base
from imprint.messages import UserError
from imprint.model import Model
from imprint.models.network import Network
from imprint.runs import RunFolder
from imprint.training import rescue
from imprint.training.guard import RATE_FACTOR, RESTART_RATE_FACTOR, Guard
from imprint.training.job import TrainJob
from imprint.training.rescue import apply_rescues
from imprint.training.run_log import RunLog
from imprint.training.state import TrainProgress
from imprint.tune.tuner import Tuner
from tests.tinyrun import log_of, losses, tiny_run, train_again

ABSURD = [
    "model.path=embedded",
    "optimizer.learning_rate=10",
    "train.steps=16",
    "train.evaluate_every=8",
    "train.watch_prompts=0",
    "tune.prefix_dropout=0.1",
    "train.keep_states=2",
]
PLAIN = ["train.watch_prompts=0", "train.evaluate_every=6"]


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch, recipe: Path) -> Callable[[str], None]:
    """Make the loss of every row that holds a text not finite, whatever the weights are."""

    def spoil(text: str) -> None:
        forward = Tuner.forward
        ids = imprint.load(recipe.parent / "base", device="cpu").tokenizer.encode(text)[1:]

        def poisoned(tuner: Tuner, pack: Any) -> Tensor:
            loss = forward(tuner, pack)
            found = pack.ids.tolist()
            return loss * torch.nan if any(found[at : at + len(ids)] == ids for at in range(len(found))) else loss

        monkeypatch.setattr(Tuner, "forward", poisoned)

    return spoil


def test_a_poisoned_batch_and_an_absurd_learning_rate_both_end_in_a_finished_run(
    recipe: Path, spoiled: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    calm = tiny_run(recipe, "absurd", *ABSURD)
    said = capsys.readouterr().out
    assert "The run goes back to its start with a peak learning rate of 1 (rescue 1 of 3" in said
    assert "rows.jsonl:" in said
    assert "finished: 16 of 16 steps are done" in said
    assert [(line["back_to"], line["rate_scale"]) for line in read_jsonl(calm.rescues)] == [(0, RESTART_RATE_FACTOR)]
    assert max(line["learning_rate"] for line in read_jsonl(calm.log) if "loss" in line) <= 1.0
    before, *_between, last = losses(calm, "eval_loss")
    assert before is not None
    assert last is not None
    assert last < before / 2

    rows = recipe.parent / "poisoned.jsonl"
    rows.write_text((recipe.parent / "rows.jsonl").read_text(encoding="utf-8").replace("长裙", "毒药", 1), encoding="utf-8")
    number = 1 + ["毒药" in line for line in rows.read_text(encoding="utf-8").splitlines()].index(True)
    spoiled("毒药")
    run = tiny_run(recipe, "poisoned", f"data.train={rows}", "data.dev_seed=1", *PLAIN)
    thrown = [line for line in read_jsonl(run.log) if "skipped_rows" in line]
    said = capsys.readouterr().out
    assert len(thrown) == 1
    assert len(thrown[0]["broken_rows"]) == 1
    assert f"step {thrown[0]['step']}: skipped, the loss of these rows is not finite: {rows}:{number}\n" in said
    assert "finished: 6 of 6 steps are done" in said
    assert "1 of 6 steps were skipped" in said
    assert not run.rescues.exists()


@pytest.mark.long
def test_a_run_killed_around_its_rescue_ends_as_one_that_was_not(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knobs = [*ABSURD, "train.steps=8", "train.evaluate_every=4"]
    whole = tiny_run(recipe, "rescued", *knobs)
    assert len(read_jsonl(whole.rescues)) == 1
    for name, function, when in (("early", "write_rescue", "before"), ("late", "write_rescue", "after"), ("reload", "build_job", "after")):
        place = training if function == "build_job" else rescue
        real = getattr(place, function)
        calls = 0

        def die(*arguments: Any, real: Any = real, when: str = when, function: str = function) -> Any:
            nonlocal calls
            calls += 1
            if when == "before":
                raise SystemExit
            result = real(*arguments)
            if function == "write_rescue" or calls == 2:
                raise SystemExit
            return result

        monkeypatch.setattr(place, function, die)
        with pytest.raises(SystemExit):
            tiny_run(recipe, f"rescued-{name}", *knobs)
        monkeypatch.setattr(place, function, real)
        run = tiny_run(recipe, f"rescued-{name}", *knobs)
        assert log_of(run) == log_of(whole)
        assert read_jsonl(run.rescues) == read_jsonl(whole.rescues)


def test_the_guard_of_a_live_run_knows_what_the_log_says(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guards: list[Guard] = []
    real = rescue.rescue_if_diverged

    def spy(job: TrainJob, progress: TrainProgress, run_log: RunLog, guard: Guard) -> bool:
        guards.append(guard)
        return real(job, progress, run_log, guard)

    monkeypatch.setattr(training, "rescue_if_diverged", spy)
    run = tiny_run(recipe, "guarded")
    assert len(losses(run, "eval_loss")) == 3  # the one before tuning too
    assert vars(guards[-1]) == vars(Guard.replay(read_events(run), 6))


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Nothing but the program itself frees what hangs in a circle."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.long
def test_an_explosion_in_the_middle_goes_back_to_the_last_good_state_and_not_to_a_newer_one(
    recipe: Path, no_collector: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update = Engine.update

    def jolt(engine: Engine, step: int, **how: Any) -> tuple[float, bool]:
        done = update(engine, step, **how)
        if step == 10 and engine.rate_scale == 1:
            for parameter in engine.parameters.values():
                parameter.data += 100 * torch.randn_like(parameter)
        return done

    monkeypatch.setattr(Engine, "update", jolt)
    bases: list[weakref.ref[Network]] = []

    def load_alone(*arguments: Any, **options: Any) -> Model:
        assert all(base() is None for base in bases)
        model = load_base(*arguments, **options)
        bases.append(weakref.ref(model.network))
        return model

    monkeypatch.setattr("imprint.training.job.load_base", load_alone)
    knobs = [*ABSURD, "optimizer.learning_rate=0.1", "train.steps=20"]
    run = tiny_run(recipe, "jolted", *knobs)
    assert [(line["back_to"], line["rate_scale"]) for line in read_jsonl(run.rescues)] == [(9, RATE_FACTOR)]
    assert len(bases) == 2
    assert "The run goes back to the state of step 9 with a peak learning rate of 0.03" in capsys.readouterr().out
    values = losses(run)
    assert len(values) == 20
    assert all(loss is not None and loss < 5 for loss in values)
    rates = [line["learning_rate"] for line in log_of(run) if "loss" in line]
    assert rates[9] < RATE_FACTOR * rates[8] * 1.01


def test_a_run_that_breaks_again_and_again_ends_with_advice_and_a_guard_that_is_off_never_steps_in(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = Tuner.forward

    def worse(tuner: Tuner, pack: Any) -> Tensor:
        loss = forward(tuner, pack)
        return (
            loss * torch.nan
            if tuner.training and float(next(iter(tuner.trainable_parameters().values())).detach().abs().sum()) > 0
            else loss
        )

    command = [
        "train",
        str(recipe),
        f"output={recipe.parent / 'hopeless'}",
        "tune.start=zeros",
        "tune.prefix_dropout=0",
        *PLAIN,
        "train.steps=12",
    ]
    monkeypatch.setattr(Tuner, "forward", worse)
    assert main(command) == 2
    said = capsys.readouterr()
    assert "even after 3 rescues, each with a lower rate. In a new folder set optimizer.learning_rate=" in said.err
    assert "Traceback" not in said.err
    assert len(read_jsonl(RunFolder(recipe.parent / "hopeless").rescues)) == 3
    assert main(command) == 2  # again the same end, and no fourth rescue
    assert len(read_jsonl(RunFolder(recipe.parent / "hopeless").rescues)) == 3
    shutil.rmtree(recipe.parent / "hopeless")
    main([*command, "train.guard=false"])
    assert not RunFolder(recipe.parent / "hopeless").rescues.exists()


# The guard's record


def test_a_rescue_is_on_record_and_counts_for_every_position_before_it(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert read_rescues(run) == []
    first = Rescued(step=60, back_to=40, rate_scale=0.3, reason="the loss rose", rows=("rows.jsonl:3",), best_step=50, best_loss=3.2)
    second = Rescued(step=80, back_to=0, rate_scale=0.03, reason="the loss rose again", rows=(), best_step=0, best_loss=None)
    for one in (first, second):
        write_rescue(run, one)
    assert read_rescues(run) == [first, second]
    old = TrainProgress(step=40, best_step=20, best_loss=4.0, skipped=3)
    assert apply_rescues(old, [first]) == TrainProgress(step=40, best_step=50, best_loss=3.2, rescues=1, rate_scale=0.3)
    assert apply_rescues(TrainProgress(step=10, rescues=2, rate_scale=0.03), [first, second]).best_step == 0
    run.rescues.write_text(json.dumps({"step": 3}) + "\n")
    with pytest.raises(UserError, match=r"rescues\.jsonl:1: this is not a line that Imprint wrote"):
        read_rescues(run)


def test_a_state_that_a_rescue_gave_up_is_never_gone_on_from(killed: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    write_rescue(killed, Rescued(step=4, back_to=2, rate_scale=0.5, reason="the loss rose", rows=(), best_step=3, best_loss=1.0))
    assert train_again(killed) == 0
    said = capsys.readouterr().out
    assert "resuming after step 2 of 6" in said
    assert "rescued 1 times so far: the learning rate is 0.5 of the recipe's" in said
    rates = [line["learning_rate"] for line in log_of(killed) if "loss" in line]
    assert rates[2] == pytest.approx(0.05)
    train_again(killed)
    assert "resuming after" not in capsys.readouterr().out  # the new states count
