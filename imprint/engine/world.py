"""The processes that train together: rank, world size, and the collective calls between them."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch

from imprint.messages import Bilingual, UserError

TIMEOUT = timedelta(hours=1)
"""Timeout of a collective call; another process may be writing a large state."""
HEARTBEAT_SECONDS = 60.0
"""Seconds between two heartbeats of a busy main process."""
LAUNCHER, ERRORS = "IMPRINT_LAUNCHER", "IMPRINT_ERRORS"
"""Environment variables: the process id of the launcher, and the folder to which processes write their errors for it."""
CONNECTION_LOST = "the connection to the other processes is lost"
CONNECTION_LOST_PATTERNS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "ncclRemoteError",
    "NCCL",
    "gloo",
    "Gloo",
)
"""Parts of the messages with which gloo and NCCL report a lost process."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class World:
    """The current process among those that train together. Every method but `is_main` is collective: all processes must call it."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """Number of processes on all machines."""
    local_rank: int = 0
    """Number of this process on its machine, and so of its GPU."""

    @property
    def local_size(self) -> int:
        """Number of processes on this machine."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.size > 1 else 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def all_sum(self, value: float) -> float:
        """The sum of a number over all processes."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        tensor = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(tensor)
        return float(tensor)

    def any(self, *, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return self.all_sum(float(flag)) > 0

    def all_gather(self, value: Any) -> list[Any]:
        """The value of each process, by rank; also serves as a barrier."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def on_all(self, work: Callable[[], Result]) -> list[Result]:
        """Run `work` in every process and return the results by rank; a UserError in one of them is raised in all."""
        if self.size == 1:
            return [work()]
        attempts: list[tuple[Result | None, str | None]] = self.all_gather(_attempt(work))
        _raise_first(error for _result, error in attempts)
        return [result for result, _error in attempts]  # type: ignore[misc]

    def on_main(self, work: Callable[[], Result], *, slow: bool = False) -> Result:
        """Run `work` in the main process and return its result in all; a UserError that it raises is raised in all.

        `slow` work may take longer than the timeout of a collective call: the main process sends heartbeats meanwhile.
        """
        if self.size == 1:
            return work()
        import torch.distributed as dist

        with self._heartbeat() if slow else nullcontext():
            attempt: list[Any] = [_attempt(work) if self.is_main else None]
        dist.broadcast_object_list(attempt, src=0)
        result, error = attempt[0]
        _raise_first([error])
        return result  # type: ignore[no-any-return]

    @contextmanager
    def _heartbeat(self) -> Iterator[None]:
        """Inside this block the main process works, while a second thread of it sends heartbeats that keep the others waiting."""
        if not self.is_main:
            while self.any(flag=False):
                pass
            yield
            return
        done = threading.Event()

        def send() -> None:
            with suppress(RuntimeError):  # the others are gone; the main thread notices by itself
                while not done.wait(HEARTBEAT_SECONDS):
                    self.any(flag=True)
                self.any(flag=False)

        heartbeat = threading.Thread(target=send, daemon=True)
        heartbeat.start()
        try:
            yield
        finally:
            done.set()
            heartbeat.join()

    @contextmanager
    def main_context(self, context: AbstractContextManager[object]) -> Iterator[None]:
        """Enter a context in the main process only: before any process runs the block; it is left after all have finished."""

        def enter() -> None:
            stack.enter_context(context)

        with ExitStack() as stack:
            self.on_main(enter)
            yield
            self.all_gather(None)
            self.on_main(stack.close)


def _attempt(work: Callable[[], Result]) -> tuple[Result | None, str | None]:
    """The result of `work`, or the text of its UserError."""
    try:
        return work(), None
    except UserError as error:
        return None, str(error)


def _raise_first(errors: Iterable[str | None]) -> None:
    for error in errors:
        if error is not None:
            raise UserError(error)


SINGLE = World()
"""The world of a process that trains alone."""


def is_launched() -> bool:
    """Whether a launcher (Imprint, torchrun or deepspeed) started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def is_orphaned() -> bool:
    """Whether the launcher of this process is gone."""
    return LAUNCHER in os.environ and os.getppid() != int(os.environ[LAUNCHER])


@contextmanager
def join_world(device: str | None, *, process_group: bool = False) -> Iterator[World]:
    """Join the process group of the launched processes; a single process has none, unless `process_group` (a group of one).

    `device` is a device name; None takes a GPU where there is one, each process its own. Raises UserError if there are fewer GPUs than
    processes, and if the connection to the others is lost.
    """
    import torch.distributed as dist

    on_gpu = device != "cpu" and torch.cuda.is_available()
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    if not is_launched():
        if process_group:
            dist.init_process_group(backend, store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
        try:
            yield SINGLE
        finally:
            if process_group:
                dist.destroy_process_group()
        return
    world = World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0")))
    if on_gpu:
        if world.local_rank >= torch.cuda.device_count():
            raise UserError(
                Bilingual(
                    f"process {world.rank} has no GPU: this machine has {torch.cuda.device_count()}, and its process number "
                    f"{world.local_rank} (from 0) was started. Start one process for each GPU (engine.processes=null).",
                    f"进程 {world.rank} 没有 GPU：本机只有 {torch.cuda.device_count()} 块；请每块启动一个进程（engine.processes=null）。",
                )
            )
        torch.cuda.set_device(world.local_rank)
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield world
    except RuntimeError as error:
        if not any(pattern in str(error) for pattern in CONNECTION_LOST_PATTERNS):
            raise
        raise UserError(
            Bilingual(
                f"{CONNECTION_LOST}: one of them has ended. What was saved is kept: run the same command again to resume "
                f"({str(error).partition(chr(10))[0][:200]}).",
                "与其他进程的连接已断开；已保存的内容不受影响，再次运行同一命令即可继续。",
            )
        ) from error
    finally:
        dist.destroy_process_group()


def report_to_launcher(error: UserError) -> bool:
    """Write an error for the launcher, which prints it once for all processes; returns False where there is no launcher."""
    folder = os.environ.get(ERRORS)
    if folder is None or not is_launched():
        return False
    Path(folder, f"error-{int(os.environ['RANK']):05d}.txt").write_text(str(error), encoding="utf-8")
    return True
