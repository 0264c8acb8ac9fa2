import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import imprint
import imprint.training.run as training
from imprint.cli import main
from imprint.data.batches import BatchSampler
from imprint.data.dataset import load_splits
from imprint.data.encode import EncodedRow
from imprint.data.section import DataSection
from imprint.engine.engine import Engine
from imprint.files import read_jsonl
from imprint.runs import RunFolder
from imprint.training import evaluation
from imprint.training.job import Job
from imprint.training.memory import scored
from imprint.training.run_log import Journal
from imprint.training.state import Position
from imprint.training.step import train_step
from imprint.tune.tuner import Tuner
from tests.tinyrun import described, log_of, losses, tiny_recipe, tiny_run

ALONE = ["tune.prefix_dropout=0", "train.evaluate_every=6", "train.watch_prompts=0", "train.save_every=6"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_recipe(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="module")
def whole(recipe: Path) -> RunFolder:
    """A run that went through in one go."""
    return tiny_run(recipe, "whole")


def drill(repo: Path, what: str, folder: Path, *more: str) -> dict[str, Any]:
    """Run a drill in a process of its own, whose forks cannot disturb pytest."""
    command = [sys.executable, "-m", "tests.drills", what, str(folder), *more]
    result = subprocess.run(command, cwd=repo, capture_output=True, encoding="utf-8", check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return dict(json.loads(result.stdout.splitlines()[-1]))


def trained(run: RunFolder, step: int) -> dict[str, Tensor]:
    """What had been learned after a step."""
    return load_file(run.state(step) / "trained.safetensors")


def assert_same_ending(run: RunFolder, other: RunFolder, step: int) -> None:
    assert log_of(run) == log_of(other)
    assert read_jsonl(run.samples) == read_jsonl(other.samples)
    one, two = trained(run, step), trained(other, step)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert described(run) == described(other)


# Killed and started again


def test_runs_killed_at_random_moments_end_as_one_that_nobody_killed(drilled: dict[str, dict[str, Any]]) -> None:
    found = drilled["train"]
    assert found["broken"] == []
    assert found["kills"] >= 8
    assert found["equal"] == found["runs"] > 0
    assert found["in_a_save"] > 0


@pytest.mark.long
@pytest.mark.parametrize("seed", ["1", "2"])
def test_sixty_kills_lose_nothing(repo: Path, tmp_path: Path, seed: str) -> None:
    found = drill(repo, "train", tmp_path, "--kills", "60", "--seed", seed)
    assert found["broken"] == []
    assert found["kills"] >= 60
    assert found["equal"] == found["runs"]


@pytest.mark.long
def test_a_run_killed_around_a_rescue_ends_as_one_that_nobody_killed(repo: Path, tmp_path: Path) -> None:
    found = drill(repo, "rescue", tmp_path, "--kills", "3", "--seed", "5")
    assert found["broken"] == []
    assert found["kills"] >= 3
    assert found["equal"] == found["runs"] > 0


@pytest.mark.long
def test_a_hundred_kills_over_training_rescuing_evaluating_quantizing_and_converting_lose_nothing(repo: Path, tmp_path: Path) -> None:
    found = drill(repo, "all", tmp_path, "--kills", "100", "--seed", "3")
    assert found["broken"] == []
    assert found["kills"] >= 100
    assert found["equal"] == found["runs"]


@pytest.mark.long
def test_a_kill_before_any_single_change_on_the_disk_loses_nothing(repo: Path, tmp_path: Path) -> None:
    found = drill(repo, "sweep", tmp_path)
    assert found["broken"] == []
    assert found["equal"] == found["runs"] > 60


@pytest.mark.long
def test_runs_of_a_lora_killed_at_random_moments_end_as_one_that_nobody_killed(repo: Path, tmp_path: Path) -> None:
    found = drill(repo, "lora", tmp_path, "--kills", "3", "--seed", "0")
    assert found["broken"] == []
    assert found["kills"] >= 3
    assert found["equal"] == found["runs"] > 0


# Stopped by Ctrl-C


def test_ctrl_c_saves_the_step_and_says_how_to_go_on(recipe: Path) -> None:
    run = RunFolder(recipe.parent / "interrupted")
    knobs = ["train.steps=60", "train.save_every=45", "train.evaluate_every=20", "train.watch_prompts=0"]
    command = [sys.executable, "-m", "imprint", "train", str(recipe), f"output={run.path}", *knobs]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    while len(read_jsonl(run.log)) < 3 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    step = max(line["step"] for line in read_jsonl(run.log))
    assert process.returncode == 130
    assert f"stopped and saved at step {step}. Run the same command again to go on." in errors
    assert "stopping after this step" in errors
    assert "Traceback" not in errors
    assert run.states() == [run.state(step)]
    assert step < 60
    assert_same_ending(tiny_run(recipe, run.path.name, *knobs), tiny_run(recipe, "uninterrupted", *knobs), 60)


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(step, signal) pairs that the process sends itself in the middle of a step."""
    wanted: list[tuple[int, int]] = []
    step = train_step

    def noisy(job: Job, position: Position, journal: Journal) -> Position:
        for at, number in wanted:
            if at == position.step:
                os.kill(os.getpid(), number)
        return step(job, position, journal)

    monkeypatch.setattr(training, "train_step", noisy)
    return wanted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_step_in_progress_and_the_next_start_goes_on(
    number: int, recipe: Path, whole: RunFolder, signals: list[tuple[int, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signals.append((4, number))
    command = ["train", str(recipe), f"output={tmp_path / 'run'}"]
    assert main(command) == 130
    run = RunFolder(tmp_path / "run")
    assert run.states()[0] == run.state(4)
    signals.clear()
    assert main(command) == 0
    assert "going on after step 4 of 6" in capsys.readouterr().out
    assert_same_ending(run, whole, 6)


def test_a_run_whose_terminal_is_closed_is_saved(recipe: Path) -> None:
    run = RunFolder(recipe.parent / "closed")
    command = ["train", str(recipe), f"output={run.path}", "train.steps=2000", "train.save_every=1900", "train.evaluate_every=2000"]
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-m", "imprint", *command])
    shown = threading.Thread(target=read_all, args=(terminal,), daemon=True)
    shown.start()
    while not run.log.exists() or len(read_jsonl(run.log)) < 3:
        time.sleep(0.002)
    os.dup2(os.open(os.devnull, os.O_RDONLY), terminal)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    step = max(line["step"] for line in read_jsonl(run.log))
    assert (status, run.states()) == (130, [run.state(step)])
    assert step < 2000


def read_all(terminal: int) -> None:
    """Take what a terminal shows, until it is closed."""
    with suppress(OSError):
        while os.read(terminal, 4096):
            pass


def test_a_run_under_nohup_outlives_its_terminal(recipe: Path, signals: list[tuple[int, int]], tmp_path: Path) -> None:
    signals.append((4, signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert tiny_run(recipe, str(tmp_path / "run")).states()[0].name == "state-000006"
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_ctrl_c_ends_at_once(recipe: Path, signals: list[tuple[int, int]], tmp_path: Path) -> None:
    signals += [(4, signal.SIGINT)] * 2
    with pytest.raises(KeyboardInterrupt):
        tiny_run(recipe, str(tmp_path / "run"))
    run = RunFolder(tmp_path / "run")
    assert run.states()[0] == run.state(3)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_in_the_last_step_is_no_stop(recipe: Path, signals: list[tuple[int, int]], tmp_path: Path) -> None:
    signals.append((6, signal.SIGINT))
    assert tiny_run(recipe, str(tmp_path / "run")).states()[0].name == "state-000006"


def test_a_whole_network_that_is_tuned_goes_on_too(recipe: Path, signals: list[tuple[int, int]], tmp_path: Path) -> None:
    knobs = ["tune={method: full}", "optimizer.learning_rate=0.01"]
    unbroken = tiny_run(recipe, str(tmp_path / "unbroken"), *knobs)
    signals.append((2, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        tiny_run(recipe, str(tmp_path / "run"), *knobs)
    signals.clear()
    run = tiny_run(recipe, str(tmp_path / "run"), *knobs)
    assert log_of(run) == log_of(unbroken)
    assert all(torch.equal(one, trained(unbroken, 6)[name]) for name, one in trained(run, 6).items())
    ids = [[5, 6, 7, 9]]
    config = json.loads((run.model / "config.json").read_text())
    ids[0] += [config["gmask_token_id"], config["bos_token_id"]]
    assert torch.equal(imprint.load(run.model, device="cpu").logits(ids)[0], imprint.load(unbroken.model, device="cpu").logits(ids)[0])


# What a step is


def test_micro_batches_of_any_size_give_the_same_step(recipe: Path) -> None:
    runs = [tiny_run(recipe, f"micro-{size}", *ALONE, "train.batch_size=8", f"train.micro_batch_size={size}") for size in (8, 3, 1)]
    for other in runs[1:]:
        assert losses(other) == pytest.approx(losses(runs[0]), abs=1e-5)
        assert losses(other, "gradient_norm") == pytest.approx(losses(runs[0], "gradient_norm"), rel=1e-3)
        for name, tensor in trained(runs[0], 6).items():
            assert torch.allclose(trained(other, 6)[name], tensor, atol=2e-3)
    assert losses(runs[0])[5] != pytest.approx(losses(runs[0])[0], abs=1e-3)  # it moves at all


def test_checkpointing_changes_memory_and_no_number(recipe: Path) -> None:
    off, on = (tiny_run(recipe, f"checkpointing-{on}", "train.steps=3", f"train.checkpointing={on}") for on in ("false", "true"))
    assert losses(on) == pytest.approx(losses(off), abs=1e-6)
    assert all(torch.allclose(trained(on, 3)[name], tensor, atol=1e-5) for name, tensor in trained(off, 3).items())


@pytest.fixture(scope="module")
def rows(recipe: Path) -> list[EncodedRow]:
    """The training rows of the recipe."""
    template = imprint.load(recipe.parent / "base", device="cpu").template
    return list(load_splits(DataSection(train=recipe.parent / "rows.jsonl", dev_share=0.2, max_target_length=24), template).train)


@pytest.fixture(scope="module")
def row_losses(recipe: Path, rows: list[EncodedRow]) -> list[tuple[float, int]]:
    """Of each training row the loss summed over its targets, and their number; computed row by row with the prefix as it starts."""
    run = tiny_run(recipe, "start", *ALONE, "train.steps=1", "optimizer.learning_rate=1e-30")
    model = imprint.load(recipe.parent / "base", adapter=run.adapter, device="cpu")
    with torch.no_grad():
        return [(float(model.loss([list(row.ids)], [list(row.labels)])) * scored(row), scored(row)) for row in rows]


def first_batch(rows: list[EncodedRow], size: int) -> list[int]:
    return BatchSampler([len(row.ids) for row in rows], size, seed=0).batch(1)


@pytest.mark.parametrize(("size", "in_it"), [(8, 3), (19, 19)])  # of 8, 8 and 3 rows the smallest batch comes first here
def test_the_loss_is_the_mean_over_all_target_tokens_of_the_step(
    size: int, in_it: int, recipe: Path, rows: list[EncodedRow], row_losses: list[tuple[float, int]], tmp_path: Path
) -> None:
    run = tiny_run(recipe, str(tmp_path / "run"), *ALONE, "train.steps=1", f"train.batch_size={size}", "train.micro_batch_size=3")
    batch = [row_losses[row] for row in first_batch(rows, size)]
    assert len(batch) == in_it
    assert losses(run) == [pytest.approx(sum(loss for loss, _ in batch) / sum(count for _, count in batch), abs=1e-5)]


def test_micro_batch_average_is_the_mean_of_the_means(
    recipe: Path, rows: list[EncodedRow], row_losses: list[tuple[float, int]], tmp_path: Path
) -> None:
    knobs = ["train.steps=1", "train.batch_size=19", "train.micro_batch_size=8", "train.loss_average=micro_batch"]
    run = tiny_run(recipe, str(tmp_path / "run"), *ALONE, *knobs)
    batch = [row_losses[row] for row in first_batch(rows, 19)]
    means = [sum(loss for loss, _ in part) / sum(count for _, count in part) for part in (batch[:8], batch[8:16], batch[16:])]
    assert losses(run) == [pytest.approx(sum(means) / 3, abs=1e-5)]
    assert sum(means) / 3 != pytest.approx(sum(loss for loss, _ in batch) / sum(count for _, count in batch), abs=1e-4)


def test_an_epoch_is_every_row_once_and_its_last_batch_counts(recipe: Path, tmp_path: Path) -> None:
    batches = BatchSampler(range(19), 4, seed=0)
    first, second = ([batches.batch(step) for step in range(1 + 5 * epoch, 6 + 5 * epoch)] for epoch in range(2))
    for epoch in (first, second):
        assert sorted(row for batch in epoch for row in batch) == list(range(19))
        assert sorted(map(len, epoch)) == [3, 4, 4, 4, 4]
    assert first != second
    knobs = ["train.steps=null", "train.evaluate_every=99", "train.watch_prompts=0", "train.save_every=99"]
    assert len(losses(tiny_run(recipe, str(tmp_path / "one"), *knobs, "train.epochs=1"))) == 5
    assert len(losses(tiny_run(recipe, str(tmp_path / "more"), *knobs, "train.epochs=1.6"))) == 8


# What is not finite


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, set[int]]]:
    """Steps, counted over backward passes, whose loss is not a number or whose gradient is infinite."""
    steps: dict[str, set[int]] = {"loss": set(), "gradient": set()}
    done = 0
    backward, forward = Engine.backward, Tuner.forward

    def bad_forward(tuner: Tuner, pack: Any) -> Tensor:
        loss = forward(tuner, pack)
        return loss * torch.nan if tuner.training and done + 1 in steps["loss"] else loss

    def bad_backward(engine: Engine, loss: Tensor, *, last: bool) -> None:
        nonlocal done
        done += 1
        backward(engine, loss * torch.inf if done in steps["gradient"] else loss, last=last)

    monkeypatch.setattr(Tuner, "forward", bad_forward)
    monkeypatch.setattr(Engine, "backward", bad_backward)
    return iter([steps])


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_told_and_never_reaches_the_weights(
    kind: str, recipe: Path, poisoned: Iterator[dict[str, set[int]]], tmp_path: Path
) -> None:
    next(poisoned)[kind].add(3)
    run = tiny_run(recipe, str(tmp_path / "run"))
    lines = [line for line in read_jsonl(run.log) if "loss" in line]
    assert [line["loss"] is None for line in lines] == [False, False, True, False, False, False]
    assert sorted(lines[2]["skipped_rows"]) == sorted(set(lines[2]["skipped_rows"]))
    assert len(lines[2]["skipped_rows"]) == 4
    before, at, after = (trained(run, step) for step in (2, 3, 4))
    assert all(torch.equal(before[name], at[name]) for name in before)
    assert any(not torch.equal(at[name], after[name]) for name in at)
    assert all(torch.isfinite(tensor).all() for tensor in trained(run, 6).values())


# What is kept


def scripted(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Evaluation losses of these values, one after the other; the first is before tuning."""
    left = iter([9.5, *values])
    for place in (evaluation, training):
        monkeypatch.setattr(place, "evaluation_loss", lambda job, journal: next(left))


@pytest.mark.parametrize(
    ("values", "step", "score"),
    [
        ([3.0, 2.0, 4.0, 2.5, 2.0, 9.0], 2, 2.0),
        ([float("nan"), 5.0, 6.0, float("inf"), float("nan"), 5.5], 2, 5.0),
        ([6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 6, 1.0),
    ],
)
def test_the_adapter_is_the_one_with_the_lowest_evaluation_loss(
    values: list[float], step: int, score: float, recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scripted(monkeypatch, values)
    run = tiny_run(recipe, str(tmp_path / "run"), "train.evaluate_every=1")
    description = described(run)
    assert (description["step"], description["scores"]) == (step, {"eval_loss": score})
    assert description["base"] == str(recipe.parent / "base")
    kept = load_file(run.adapter / "prefix.safetensors")
    assert all(torch.equal(kept[name], tensor) for name, tensor in trained(run, step).items())


def test_the_best_is_remembered_over_a_stop(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, signals: list[tuple[int, int]], tmp_path: Path
) -> None:
    scripted(monkeypatch, [3.0, 2.0, 4.0, 2.5, 3.0, 9.0])
    signals.append((3, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        tiny_run(recipe, str(tmp_path / "run"), "train.evaluate_every=1")
    signals.clear()
    assert described(tiny_run(recipe, str(tmp_path / "run"), "train.evaluate_every=1"))["step"] == 2


def test_without_held_out_rows_the_last_state_is_kept(recipe: Path, tmp_path: Path) -> None:
    run = tiny_run(recipe, str(tmp_path / "run"), "data.dev_share=0")
    assert (described(run)["step"], described(run)["scores"]) == (6, {})
    assert losses(run, "eval_loss") == []


def test_only_the_newest_states_are_kept(recipe: Path, tmp_path: Path) -> None:
    run = tiny_run(recipe, str(tmp_path / "run"), "train.save_every=2", "train.keep_states=2", "train.steps=7")
    assert [state.name for state in run.states()] == ["state-000007", "state-000006"]


# The same folder again


def test_a_finished_run_started_again_says_so_and_changes_nothing(
    recipe: Path, whole: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (whole.log.read_bytes(), whole.samples.read_bytes(), (whole.adapter / "prefix.safetensors").read_bytes())
    assert main(["train", str(recipe), f"output={whole.path}"]) == 0
    said = capsys.readouterr().out
    assert f"finished: 6 of 6 steps are done; {whole.adapter} holds step 6 with evaluation loss" in said
    assert f"imprint chat {whole.path} " in said
    assert f"imprint evaluate {whole.path} --data FILE" in said
    assert "going on" not in said
    assert before == (whole.log.read_bytes(), whole.samples.read_bytes(), (whole.adapter / "prefix.safetensors").read_bytes())


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        (["model.path=nowhere"], "nowhere"),
        (["data.train=nowhere.jsonl"], "nowhere.jsonl"),
        (["train.stepz=3"], "train.stepz"),
        (["train.steps=-3"], "train.steps"),
        (["tune.projection=true"], 'tune.start: "text" cannot start a prefix with a projection'),
        (["model.device=gpu"], "gpu"),
    ],
)
def test_what_cannot_be_trained_is_a_sentence(
    knobs: list[str], sentence: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(recipe), f"output={tmp_path / 'run'}", *knobs]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert sentence in said
    assert "Traceback" not in said


# A run that cannot begin, and one that learns nothing


def test_a_run_without_its_recipe_is_not_gone_on_with(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run(recipe, "bereft", "train.steps=1")
    run.config.unlink()
    assert main(["train", str(recipe), f"output={run.path}", "optimizer.learning_rate=0.5"]) == 2
    assert "its config.yaml is gone. Put it back" in capsys.readouterr().err


def test_a_recipe_that_cannot_run_does_not_bind_its_folder(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = recipe.parent / "mistaken"
    assert main(["train", str(recipe), f"output={folder}", "model.path=nowhere"]) == 2
    assert "nowhere: there is no such folder" in capsys.readouterr().err
    assert main(["train", str(recipe), f"output={folder}", "train.steps=1"]) == 0


def test_a_text_start_with_a_projection_is_told_with_the_recipes_other_problems(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe), "tune.projection=true", "train.steps=0"]) == 2
    said = capsys.readouterr().err
    assert "train.steps" in said
    assert '"text" cannot start a prefix with a projection' in said


def test_full_tuning_in_float16_is_refused(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    knobs = ["tune={method: full}", "model.dtype=float16", f"output={recipe.parent / 'half'}"]
    assert main(["train", str(recipe), *knobs]) == 2
    assert 'model.dtype: "float16" cannot be tuned as a whole' in capsys.readouterr().err


def test_a_run_whose_losses_are_never_finite_keeps_nothing_and_says_so(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = recipe.parent / "broken-base"
    shutil.copytree(recipe.parent / "base", base)
    tensors = load_file(base / "model.safetensors")
    tensors["transformer.final_layernorm.bias"][0] = float("inf")
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    run = RunFolder(recipe.parent / "nothing")
    assert main(["train", str(recipe), f"output={run.path}", f"model.path={base}"]) == 2
    assert "no evaluation loss was ever finite, so nothing is kept" in capsys.readouterr().err
    assert not run.adapter.exists()


def test_a_run_may_be_started_beside_the_main_thread(recipe: Path) -> None:
    runs: list[RunFolder] = []
    thread = threading.Thread(target=lambda: runs.append(tiny_run(recipe, "threaded", "train.steps=1")))
    thread.start()
    thread.join()
    assert losses(runs[0])
