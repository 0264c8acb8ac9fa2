"""Launches one process per GPU, on one machine or several: torchrun's agent supervises them and ends all when one fails."""

import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from imprint.engine.section import EngineSection
from imprint.engine.world import CONNECTION_LOST, ERRORS, LAUNCHER
from imprint.files.scratch import scratch_folder
from imprint.messages import Bilingual, UserError
from imprint.runtime import child_processes

RENDEZVOUS_SECONDS = 900
"""Rendezvous timeout: how long a machine waits for the others."""
STDERR_TAIL = 3000
"""Characters of a failed process's stderr that are shown."""
STOPPED = 130
"""Exit status of a process that has told that it was stopped."""
POLL_SECONDS = 0.2
"""Seconds between two looks at the processes."""
START_SECONDS = 5.0
"""How long a stop waits for processes that are not yet started."""
STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGABRT} | ({signal.SIGHUP} if sys.platform != "win32" else set()))
"""Signals that end a process in a stop; the connection to one that has ended aborts another."""
RESUME_HINT = Bilingual("What was saved is kept: run the same command again to resume.", "已保存的内容不受影响：再次运行同一命令即可继续。")


def local_processes(section: EngineSection, device: str | None, rows: int) -> int:
    """Number of processes to launch on this machine: the recipe's, or one per GPU, but at most one per row of a step (`rows`).

    Raises UserError for more processes than GPUs, and for missing rendezvous settings of several machines.
    """
    gpus = torch.cuda.device_count() if device in (None, "cuda") else 0
    if section.processes is not None and 0 < gpus < section.processes:
        raise UserError(
            Bilingual(
                f"engine.processes: is {section.processes}, but PyTorch sees {gpus} GPU{'s' * (gpus > 1)} here. Set it to {gpus} or less, "
                "or to null for one process on each GPU.",
                f"engine.processes 为 {section.processes}，本机只有 {gpus} 块 GPU：请设为不大于 {gpus}，或 null（每块 GPU 一个进程）。",
            )
        )
    if section.nodes > 1:
        _check_rendezvous(section)
    if (section.processes or 1) > 1 and device is not None and device.startswith("cuda:"):
        raise UserError(
            Bilingual(
                f'model.device: "{device}" is one GPU, and engine.processes is {section.processes}. Leave model.device out.',
                f"{device} 只是一块 GPU，而 engine.processes 为 {section.processes}：请去掉 model.device。",
            )
        )
    return section.processes or max(1, min(gpus, rows))


def _check_rendezvous(section: EngineSection) -> None:
    for knob, value in (("node_rank", section.node_rank), ("rendezvous", section.rendezvous)):
        if value is None:
            raise UserError(
                Bilingual(
                    f"engine.{knob}: is missing, and engine.nodes is {section.nodes}. Set engine.node_rank=0 on the first machine, 1 on "
                    "the next, and engine.rendezvous=HOST:29500 with the first one's name on all of them.",
                    f"engine.nodes 为 {section.nodes} 时必须设置 engine.{knob}：第一台机器 engine.node_rank=0，下一台为 1，"
                    "所有机器的 engine.rendezvous 都是第一台的 主机名:29500。",
                )
            )
    assert section.node_rank is not None
    if section.node_rank >= section.nodes:
        raise UserError(
            Bilingual(
                f"engine.node_rank: is {section.node_rank}, allowed are 0 to {section.nodes - 1} (engine.nodes is {section.nodes}).",
                f"engine.node_rank 为 {section.node_rank}，允许 0 到 {section.nodes - 1}（engine.nodes 为 {section.nodes}）。",
            )
        )


def launch(section: EngineSection, count: int, arguments: Sequence[str]) -> int:
    """Run `imprint ARGUMENTS` in `count` processes of this machine and wait; returns the exit status of the main process.

    Raises UserError if another process failed or was killed, and KeyboardInterrupt if a signal stopped them before they could save.
    """
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # its messages are about agents and restarts
    with scratch_folder() as folder, _child_environment(str(folder), count):
        config = _launch_config(section, count, str(folder))
        errors: list[Exception] = []

        def supervise() -> None:
            try:
                elastic_launch(config, sys.executable)("-m", "imprint", *arguments)
            except Exception as error:  # raised below, in the main thread
                errors.append(error)

        # In a thread, where torchrun installs no signal handlers: it would kill the processes half a minute after Ctrl-C, while they save.
        thread = threading.Thread(target=supervise, daemon=True)  # a stop does not wait for machines that have not met
        with _forward_signals() as stop:
            thread.start()
            _wait(thread, stop)
        for error in errors:
            if isinstance(error, ChildFailedError):
                return _exit_status(error.failures, folder, is_main=not section.node_rank, stopped=stop.signal is not None)
            if isinstance(error, DistError) and section.nodes > 1:
                raise _rendezvous_error(section, error) from error
            raise error
    return 0


def _rendezvous_error(section: EngineSection, error: Exception) -> UserError:
    """The error for machines that could not connect to each other."""
    return UserError(
        Bilingual(
            f"engine.rendezvous: the machines did not meet at {section.rendezvous} ({str(error).partition(chr(10))[0][:200]}). Give the "
            "address of the first machine (engine.node_rank=0) and a port that is free there and not blocked, and start the command on all "
            f"{section.nodes} machines within {RENDEZVOUS_SECONDS // 60} minutes.",
            f"engine.rendezvous：各机器未能在 {section.rendezvous} 会合：请检查第一台机器的地址与端口，"
            f"并在 {RENDEZVOUS_SECONDS // 60} 分钟内在全部 {section.nodes} 台机器上启动同一命令。",
        )
    )


def _launch_config(section: EngineSection, count: int, folder: str) -> Any:
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    single_node = section.nodes == 1
    redirected = {rank: Std.ALL for rank in range(count) if rank or section.node_rank}
    return LaunchConfig(
        min_nodes=section.nodes,
        max_nodes=section.nodes,
        nproc_per_node=count,
        logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=redirected),
        run_id=uuid.uuid4().hex if single_node else "imprint",
        rdzv_backend="c10d" if single_node else "static",
        rdzv_endpoint="localhost:0" if single_node else section.rendezvous or "",
        rdzv_configs={"timeout": RENDEZVOUS_SECONDS} if single_node else {"timeout": RENDEZVOUS_SECONDS, "rank": section.node_rank},
        max_restarts=0,
        local_addr="localhost" if single_node else None,
    )


@contextmanager
def _child_environment(folder: str, count: int) -> Iterator[None]:
    """Set the environment variables that the processes inherit."""
    threads = max(1, (os.cpu_count() or 1) // count)
    variables = {LAUNCHER: str(os.getpid()), ERRORS: folder, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    previous = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in previous.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@dataclass
class _Stop:
    """What a signal told the processes."""

    signal: int | None = None
    """The first signal that was received."""
    is_sent: bool = False
    """Whether it was sent to the processes; they may not have been started yet."""

    def send(self, number: int) -> None:
        """Send a signal to all processes.

        SIGINT is sent as SIGTERM: both stop a process that trains, but one that is still starting prints a traceback at SIGINT.
        """
        for child in child_processes():
            self.is_sent = True
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM if number == signal.SIGINT else number)


@contextmanager
def _forward_signals() -> Iterator[_Stop]:
    """Forward signals to the processes, which have no terminal of their own; yields what was received."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def forward(number: int, _frame: object) -> None:
        stop.signal = stop.signal or number
        stop.send(number)

    signals = [signal.SIGINT, signal.SIGTERM]
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    previous = {number: signal.signal(number, forward) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait(thread: threading.Thread, stop: _Stop) -> None:
    """Wait for the processes to end. Raises KeyboardInterrupt after a stop before any was started, if none is soon."""
    waited = 0.0
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        if stop.signal is None or stop.is_sent:
            continue
        stop.send(stop.signal)
        waited += POLL_SECONDS
        if waited > START_SECONDS and not stop.is_sent:
            raise KeyboardInterrupt


def _exit_status(failures: Mapping[int, Any], folder: Path, *, is_main: bool, stopped: bool = False) -> int:
    """The exit status of a failed run whose main process has printed its error. Else raises UserError: which process failed, and why.

    `stopped`: whether a signal told the processes to stop; raises KeyboardInterrupt if it ended them before they could save.
    """
    killed = [
        (rank, -failure.exitcode) for rank, failure in failures.items() if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM
    ]
    errors = [file.read_text(encoding="utf-8") for file in sorted(folder.glob("error-*.txt"))]
    causes = [error for error in errors if not error.startswith(CONNECTION_LOST)]
    if causes:
        raise UserError(causes[0])
    if stopped and all(number in STOP_SIGNALS for _rank, number in killed):
        if is_main and 0 in failures and failures[0].exitcode == STOPPED:
            return STOPPED
        raise KeyboardInterrupt
    if killed:
        rank, number = min(killed, key=lambda process: (process[1] == signal.SIGABRT, process[0]))
        name, out_of_memory = signal.Signals(number).name, number == signal.SIGKILL
        why = " The system often does that to a process that takes too much main memory." if out_of_memory else ""
        raise UserError(
            Bilingual(
                f"process {rank} was ended by {name}, and the others with it.{why} {RESUME_HINT.english}",
                f"进程 {rank} 被 {name} 终止，其他进程随之结束{'；常因内存不足' if out_of_memory else ''}。{RESUME_HINT.chinese}",
            )
        )
    first = min(failures)
    status = int(failures[first].exitcode)
    if is_main and first == 0 and status > 0:
        return status
    if errors:
        raise UserError(errors[0])
    log = next(iter(folder.rglob(f"{failures[first].local_rank}/stderr.log")), None)
    stderr = log.read_text(encoding="utf-8", errors="replace")[-STDERR_TAIL:] if log else ""
    raise UserError(
        Bilingual(
            f"process {first} ended with the exit status {status}. {RESUME_HINT.english}",
            f"进程 {first} 以状态 {status} 结束。{RESUME_HINT.chinese}\n{stderr}",
        )
    )
