import json
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import imprint
from imprint.cli import main
from imprint.files.atomic import read_jsonl
from imprint.runs import RunFolder
from tests.hubserver import hub_server
from tests.tinyrun import described, learned_tensors, log_of, losses, tiny_run


def drill(repo: Path, what: str, folder: Path, *more: str) -> dict[str, Any]:
    """Run a drill in a process of its own, whose forks cannot disturb pytest."""
    command = [sys.executable, "-m", "tests.drills", what, str(folder), *more]
    result = subprocess.run(command, cwd=repo, capture_output=True, encoding="utf-8", check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return dict(json.loads(result.stdout.splitlines()[-1]))


def assert_same_ending(run: RunFolder, other: RunFolder, step: int) -> None:
    assert log_of(run) == log_of(other)
    assert read_jsonl(run.samples) == read_jsonl(other.samples)
    one, two = learned_tensors(run, step), learned_tensors(other, step)
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


def test_ctrl_c_saves_the_step_and_says_how_to_go_on(drilled: dict[str, dict[str, Any]]) -> None:
    found = drilled["stops"]["ctrl_c"]
    assert found["status"] == 130
    assert f"stopped and saved at step {found['step']}. Run the same command again to go on." in found["said"]
    assert "stopping after this step" in found["said"]
    assert "Traceback" not in found["said"]
    assert found["states"] == found["expected"]
    assert found["step"] < 60
    assert found["later"] == [0, 0]
    interrupted, other = (RunFolder(Path(found["folder"], name)) for name in ("interrupted", "uninterrupted"))
    assert_same_ending(interrupted, other, 60)


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
    assert "resuming after step 4 of 6" in capsys.readouterr().out
    assert_same_ending(run, whole, 6)


def test_a_run_whose_terminal_is_closed_is_saved(drilled: dict[str, dict[str, Any]]) -> None:
    found = drilled["stops"]["closed"]
    assert (found["status"], found["states"]) == (130, found["expected"])
    assert found["step"] < 2000


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
    assert all(torch.equal(one, learned_tensors(unbroken, 6)[name]) for name, one in learned_tensors(run, 6).items())
    ids = [[5, 6, 7, 9]]
    config = json.loads((run.model / "config.json").read_text())
    ids[0] += [config["gmask_token_id"], config["bos_token_id"]]
    assert torch.equal(imprint.load(run.model, device="cpu").logits(ids)[0], imprint.load(unbroken.model, device="cpu").logits(ids)[0])


# The same folder again


def test_a_finished_run_started_again_says_so_and_changes_nothing(
    recipe: Path, whole: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (whole.log.read_bytes(), whole.samples.read_bytes(), (whole.adapter / "prefix.safetensors").read_bytes())
    assert main(["train", str(recipe), f"output={whole.path}"]) == 0
    said = capsys.readouterr().out
    assert f"finished: 6 of 6 steps are done; {whole.adapter} holds step 6 with evaluation loss" in said
    assert f"imprint chat {whole.path} " in said
    assert f"imprint evaluate {whole.path}    " in said
    assert "resuming after" not in said
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


def test_a_run_whose_losses_are_never_finite_keeps_nothing_and_says_so(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = recipe.parent / "broken-base"
    shutil.copytree(recipe.parent / "base", base)
    tensors = load_file(base / "model.safetensors")
    tensors["transformer.final_layernorm.weight"][:] = 3e38  # finite, unlike what is computed with it
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


def test_unusable_folders_and_files_are_told_before_the_hub_is_asked(
    recipe: Path, whole: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    taken, rows = tmp_path / "notes.txt", str(recipe.parent / "rows.jsonl")
    taken.write_text("")
    with hub_server(tmp_path / "cache") as hub:
        for command in (
            ["train", str(recipe), "model.path=owner/tiny", f"output={taken}"],
            ["train", str(recipe), "model.path=owner/tiny", f"output={taken}/run", "engine.processes=2"],
            ["fit", str(recipe), "model.path=owner/tiny", "--output", f"{taken}/fit.png"],
            ["evaluate", "owner/tiny", "--data", rows, f"output={taken}"],
            ["perplexity", "owner/tiny", "--data", rows, f"output={taken}"],
            ["quantize", "owner/tiny", f"{taken}/int8", "--bits", "8"],
        ):
            assert main(command) == 2
            assert "cannot be written: a part of the path is a file" in capsys.readouterr().err, command
        assert main(["train", str(recipe), "model.path=owner/tiny", f"output={whole.path}"]) == 2
        assert "was started with another recipe: model.path: " in capsys.readouterr().err
        assert hub.asked == []
        assert main(["train", str(recipe), "model.path=owner/none", "output=new/run", "data.train=nowhere.jsonl"]) == 2
        assert "nowhere.jsonl: there is no such file" in capsys.readouterr().err
        assert hub.asked == []
        assert main(["train", str(recipe), "model.path=owner/none", "output=new/run"]) == 2
        assert not Path("new").exists()
        capsys.readouterr()
