"""Starting one process for each GPU, here and on other machines: torchrun's agent watches over them, and ends all when one ends badly."""

import logging
import os
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from imprint.engine.crew import ERRORS, LAUNCHER, LOST
from imprint.engine.section import EngineSection
from imprint.errors import UserError
from imprint.messages import Bilingual
from imprint.runtime import child_processes

MEETING_SECONDS = 900
"""How long a machine waits for the others."""
TAIL = 3000
"""Characters of a process's last words that are shown."""
KEPT = "What was saved is kept: run the same command again to go on.\n已保存的内容不受影响：再次运行同一命令即可继续。"


def processes_here(section: EngineSection, device: str | None, rows: int) -> int:
    """How many processes this machine is to run: as many as the recipe says, or one for each GPU, but not more than a step has `rows`.

    Raises UserError for more processes than GPUs, and for several machines that cannot meet.
    """
    gpus = torch.cuda.device_count() if device in (None, "cuda") else 0
    if section.processes is not None and 0 < gpus < section.processes:
        raise UserError(
            f"engine.processes: is {section.processes}, but PyTorch sees {gpus} GPU{'s' * (gpus > 1)} here. Set it to {gpus} or less, "
            "or to null for one process on each GPU."
        )
    if section.nodes > 1:
        _check_meeting(section)
    if (section.processes or 1) > 1 and device is not None and device.startswith("cuda:"):
        raise UserError(f'model.device: "{device}" is one GPU, and engine.processes is {section.processes}. Leave model.device out.')
    return section.processes or max(1, min(gpus, rows))


def _check_meeting(section: EngineSection) -> None:
    for knob, value in (("node_rank", section.node_rank), ("rendezvous", section.rendezvous)):
        if value is None:
            raise UserError(
                f"engine.{knob}: is missing where engine.nodes is {section.nodes}. Say engine.node_rank=0 on the first machine, 1 on the "
                "next, and engine.rendezvous=HOST:29500 with the first one's name on all of them."
            )
    assert section.node_rank is not None
    if section.node_rank >= section.nodes:
        raise UserError(
            f"engine.node_rank: is {section.node_rank}, allowed are 0 to {section.nodes - 1} (engine.nodes is {section.nodes})."
        )


def launch(section: EngineSection, count: int, arguments: Sequence[str]) -> int:
    """Run `imprint ARGUMENTS` in `count` processes of this machine and wait; returns the exit status of the one that leads.

    Raises UserError where one of the others has failed or was killed.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it speaks of agents and attempts
    with tempfile.TemporaryDirectory(prefix="imprint-") as folder, _surroundings(folder, count):
        config = _configuration(section, count, folder)
        problems: list[Exception] = []

        def watch() -> None:
            try:
                elastic_launch(config, sys.executable)("-m", "imprint", *arguments)
            except Exception as error:  # told below, by the thread that may
                problems.append(error)

        # In a thread, where torchrun leaves the signals to us: it would kill the processes half a minute after Ctrl-C, in a save.
        thread = threading.Thread(target=watch)
        with _signals_passed_on():
            thread.start()
            thread.join()
        for problem in problems:
            if isinstance(problem, ChildFailedError):
                return _explain(problem.failures, Path(folder), leads=not section.node_rank)
            if isinstance(problem, DistError) and section.nodes > 1:
                raise _not_met(section, problem) from problem
            raise problem
    return 0


def _not_met(section: EngineSection, problem: Exception) -> UserError:
    """What is said where the machines did not find each other."""
    return UserError(
        Bilingual(
            f"engine.rendezvous: the machines did not meet at {section.rendezvous} ({str(problem).partition(chr(10))[0][:200]}). Give the "
            "address of the first machine (engine.node_rank=0) and a port that is free there and not blocked, and start the command on all "
            f"{section.nodes} machines within {MEETING_SECONDS // 60} minutes.",
            "各机器未能会合：请检查第一台机器的地址与端口，并在所有机器上启动同一命令。",
        )
    )


def _configuration(section: EngineSection, count: int, folder: str) -> Any:
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    alone = section.nodes == 1
    quiet = {rank: Std.ALL for rank in range(count) if rank or section.node_rank}
    return LaunchConfig(
        min_nodes=section.nodes,
        max_nodes=section.nodes,
        nproc_per_node=count,
        logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=quiet),
        run_id=uuid.uuid4().hex if alone else "imprint",
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint="localhost:0" if alone else section.rendezvous or "",
        rdzv_configs={"timeout": MEETING_SECONDS} if alone else {"timeout": MEETING_SECONDS, "rank": section.node_rank},
        max_restarts=0,
        local_addr="localhost" if alone else None,
    )


@contextmanager
def _surroundings(folder: str, count: int) -> Iterator[None]:
    """The environment that the processes inherit."""
    threads = max(1, (os.cpu_count() or 1) // count)
    wanted = {LAUNCHER: str(os.getpid()), ERRORS: folder, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def _signals_passed_on() -> Iterator[None]:
    """Let the processes, which have no terminal of their own, hear what this one is told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pass_on(number: int, _frame: object) -> None:
        for child in child_processes():
            os.kill(child, number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _explain(failures: Mapping[int, Any], folder: Path, *, leads: bool) -> int:
    """The exit status of a failed run, of which the leader has spoken itself; else a UserError that says who failed and why."""
    killed = [(rank, -one.exitcode) for rank, one in failures.items() if one.exitcode < 0 and -one.exitcode != signal.SIGTERM]
    told = [file.read_text(encoding="utf-8") for file in sorted(folder.glob("error-*.txt"))]
    sentences = [words for words in told if not words.startswith(LOST)]
    if sentences:
        raise UserError(sentences[0])
    if killed:
        rank, number = min(killed, key=lambda one: (one[1] == signal.SIGABRT, one[0]))
        why = " Often that is the system's way to end what takes too much main memory." if number == signal.SIGKILL else ""
        raise UserError(f"process {rank} was ended by {signal.Signals(number).name}, and the others with it.{why} {KEPT}")
    first = min(failures)
    status = int(failures[first].exitcode)
    if leads and first == 0 and status > 0:
        return status
    if told:
        raise UserError(told[0])
    log = next(iter(folder.rglob(f"{failures[first].local_rank}/stderr.log")), None)
    words = log.read_text(encoding="utf-8", errors="replace")[-TAIL:] if log else ""
    raise UserError(f"process {first} ended with the exit status {status}. {KEPT}\n{words}")
