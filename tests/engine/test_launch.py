import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from imprint.engine.launch import _exit_status, launch, local_processes
from imprint.engine.section import EngineSection
from imprint.events import read_events
from imprint.files.atomic import read_jsonl
from imprint.messages import UserError
from imprint.runs import RunFolder
from tests.worlds import Start, free_port, losses_of, world_folder, world_runs

KNOBS = ["train.steps=400", "train.save_every=2", "train.evaluate_every=400", "train.watch_prompts=0", "train.keep_states=1"]


@pytest.mark.parametrize(
    ("section", "device", "gpus", "rows", "count"),
    [
        (EngineSection(), None, 0, 16, 1),
        (EngineSection(), None, 4, 16, 4),
        (EngineSection(), None, 8, 4, 4),
        (EngineSection(), "cuda:1", 4, 16, 1),
        (EngineSection(), "cpu", 4, 16, 1),
        (EngineSection(processes=2), None, 4, 16, 2),
        (EngineSection(processes=2), "cpu", 0, 16, 2),
    ],
)
def test_each_gpu_has_a_process_of_its_own(
    section: EngineSection, device: str | None, gpus: int, rows: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert local_processes(section, device, rows) == count


@pytest.mark.parametrize(
    ("section", "device", "sentence"),
    [
        (EngineSection(processes=8), None, r"engine\.processes: is 8, but PyTorch sees 2 GPUs here\. Set it to 2 or less"),
        (EngineSection(processes=2), "cuda:1", r'model\.device: "cuda:1" is one GPU'),
        (EngineSection(nodes=2), None, r"engine\.node_rank: is missing, and engine\.nodes is 2"),
        (EngineSection(nodes=2, node_rank=1), None, r"engine\.rendezvous: is missing"),
        (EngineSection(nodes=2, node_rank=2, rendezvous="a:1"), None, r"engine\.node_rank: is 2, allowed are 0 to 1"),
    ],
)
def test_what_cannot_start_is_a_user_error(
    section: EngineSection, device: str | None, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=sentence):
        local_processes(section, device, 16)


def test_a_failed_rendezvous_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(launch.__globals__, "RENDEZVOUS_SECONDS", 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        section = EngineSection(nodes=2, node_rank=1, rendezvous=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(UserError, match=r"engine\.rendezvous: the machines did not meet at 127\.0\.0\.1:\d+ \(.*Give the address"):
            launch(section, 1, ["recipe"])


class Failure:
    """A failed process as torchrun's agent reports it."""

    def __init__(self, local_rank: int, exitcode: int) -> None:
        self.local_rank, self.exitcode = local_rank, exitcode


def error_text(folder: Path, failures: dict[int, Any]) -> str:
    with pytest.raises(UserError) as caught:
        _exit_status(failures, folder, is_main=True)
    return str(caught.value)


def test_of_many_failures_the_first_cause_is_named(tmp_path: Path) -> None:
    assert _exit_status({0: Failure(0, 130)}, tmp_path, is_main=True) == 130
    text = error_text(tmp_path, {0: Failure(0, -signal.SIGABRT), 1: Failure(1, -signal.SIGKILL)})
    assert text.startswith("process 1 was ended by SIGKILL, and the others with it. The system often does that")
    assert "What was saved is kept" in text
    (tmp_path / "error-00000.txt").write_text("the connection to the other processes is lost: one has ended.")
    assert error_text(tmp_path, {0: Failure(0, 2), 1: Failure(1, -9)}).startswith("process 1 was ended by SIGKILL")
    (tmp_path / "error-00001.txt").write_text("data: is wrong.")
    assert error_text(tmp_path, {0: Failure(0, 2), 1: Failure(1, 2)}) == "data: is wrong."


def test_processes_that_a_stop_ended_are_told_as_a_stop(tmp_path: Path) -> None:
    for failures in ({0: Failure(0, -signal.SIGTERM)}, {0: Failure(0, 2), 1: Failure(1, -signal.SIGABRT)}, {1: Failure(1, 1)}):
        (tmp_path / "error-00000.txt").write_text("the connection to the other processes is lost: one has ended.")
        with pytest.raises(KeyboardInterrupt):
            _exit_status(failures, tmp_path, is_main=True, stopped=True)
    told = {0: Failure(0, 130), 1: Failure(1, -signal.SIGTERM)}
    assert _exit_status(told, tmp_path, is_main=True, stopped=True) == 130  # the main process has told it
    with pytest.raises(UserError, match=r"process 1 was ended by SIGKILL"):
        _exit_status({1: Failure(1, -signal.SIGKILL)}, tmp_path, is_main=True, stopped=True)
    (tmp_path / "error-00001.txt").write_text("data: is wrong.")
    with pytest.raises(UserError, match=r"data: is wrong"):
        _exit_status(told, tmp_path, is_main=True, stopped=True)


def test_ctrl_c_before_the_run_begins_is_told_as_a_stop(tmp_path: Path) -> None:
    recipe = world_folder(tmp_path)
    moments = ("before the processes", "while they start")
    code = (
        "import os, signal, sys, threading, time; import imprint.engine.launch as launch; from imprint.cli import main\n"
        "def stop(moment):\n"
        "    while signal.getsignal(signal.SIGINT) is signal.default_int_handler: time.sleep(0.001)\n"
        "    while moment == 'while they start' and len(launch.child_processes()) < 2: time.sleep(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        f"for moment in {moments}:\n"
        "    threading.Thread(target=stop, args=(moment,), daemon=True).start()\n"
        f"    status = main(['train', {str(recipe)!r}, {f'output={tmp_path}/'!r} + moment, 'engine.processes=2'])\n"
        "    print('\\n==', status, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told = done.stderr.split("\n==")
    for moment, words, after in zip(moments, told, told[1:], strict=False):
        assert after.startswith(" 130\n"), moment
        assert "stopped; run the same command again to continue" in words, moment
        assert "error" not in words, moment
    assert len(told) == len(moments) + 1
    assert "Traceback" not in done.stdout + done.stderr


def test_the_end_of_stderr_of_another_process_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "a" / "attempt_0" / "1" / "stderr.log"
    log.parent.mkdir(parents=True)
    log.write_text("Traceback ...\nValueError: odd\n")
    text = error_text(tmp_path, {1: Failure(1, 1)})
    assert text.startswith("process 1 ended with the exit status 1.")
    assert text.endswith("ValueError: odd\n")


@pytest.mark.long
def test_a_killed_process_ends_the_others_with_a_user_error_and_the_run_resumes(tmp_path: Path) -> None:
    recipe = world_folder(tmp_path)
    run = RunFolder(tmp_path / "killed")
    command = [sys.executable, "-m", "imprint", "train", str(recipe), f"output={run.path}", "engine.processes=2", *KNOBS]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    while len(read_jsonl(run.log)) < 6 and started.poll() is None:
        time.sleep(0.02)
    others = [child for child in psutil.Process(started.pid).children() if child.environ().get("RANK") == "1"]
    os.kill(others[0].pid, signal.SIGKILL)
    _output, errors = started.communicate(timeout=60)
    assert started.returncode == 2
    assert "\nerror: process 1 was ended by SIGKILL, and the others with it." in errors  # what the command does comes first
    assert "run the same command again to resume" in errors
    assert "Traceback" not in errors
    step = len(run.states()) and int(run.states()[0].name[-6:])
    knobs = [*KNOBS, f"train.steps={step + 4}", f"train.evaluate_every={step + 4}"]
    again, alone = world_runs(tmp_path, [Start("killed", 2, ["engine.processes=2", *knobs]), Start("alone", 1, knobs)])
    assert (again.statuses, alone.statuses) == ([0, 0], [0]), again.words + alone.words
    assert f"resuming after step {step} of {step + 4}" in again.words
    assert again.losses == pytest.approx(alone.losses, abs=2e-4)


@pytest.mark.long
def test_two_machines_meet_at_the_rendezvous(tmp_path: Path) -> None:
    recipe = world_folder(tmp_path)
    knobs = ["engine.nodes=2", f"engine.rendezvous=127.0.0.1:{free_port()}", "engine.processes=1"]
    command = [sys.executable, "-m", "imprint", "train", str(recipe), f"output={tmp_path / 'together'}", *knobs]
    machines = [subprocess.Popen([*command, f"engine.node_rank={rank}"], stdout=subprocess.PIPE, encoding="utf-8") for rank in (0, 1)]
    outputs = [machine.communicate(timeout=120)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0]
    assert "are trained by 2 processes" in outputs[0]
    assert outputs[1] == ""
    (alone,) = world_runs(tmp_path, [Start("alone", 1)])
    events = read_events(RunFolder(tmp_path / "together"))
    assert losses_of(events) == pytest.approx(alone.losses, abs=2e-5)


@pytest.mark.long
def test_ctrl_c_reaches_all_processes_and_they_save_together(tmp_path: Path) -> None:
    recipe = world_folder(tmp_path)
    run = RunFolder(tmp_path / "stopped")
    knobs = ["train.steps=4000", "train.save_every=3900", "train.evaluate_every=4000", "train.watch_prompts=0", "engine.processes=2"]
    command = [sys.executable, "-m", "imprint", "train", str(recipe), f"output={run.path}", *knobs]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8")
    while len(read_jsonl(run.log)) < 5 and started.poll() is None:
        time.sleep(0.02)
    started.send_signal(signal.SIGINT)
    _output, errors = started.communicate(timeout=60)
    assert started.returncode == 130
    step = max(line["step"] for line in read_jsonl(run.log))
    assert run.states() == [run.state(step)]
    assert f"stopped and saved at step {step}. Run the same command again to go on." in errors
    assert "Traceback" not in errors
