"""The processes that train together: who is who, and what they tell each other."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch

from imprint.errors import UserError
from imprint.messages import Bilingual

PATIENCE = timedelta(hours=1)
"""How long a process waits for the others, which may be writing a large state."""
PULSE = 60.0
"""Seconds between two signs of a leader that is busy."""
LAUNCHER, ERRORS = "IMPRINT_LAUNCHER", "IMPRINT_ERRORS"
"""Where in its environment a process finds the number of the one that launched it, and the folder for what is to be told."""
LOST = "the connection to the other processes is lost"
LOST_WORDS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "ncclRemoteError", "NCCL", "gloo", "Gloo")
"""How gloo and NCCL say that another process is gone."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Crew:
    """The place of this process among those that train together; every method but `leads` is one that all of them must call."""

    rank: int = 0
    """Which of them this is."""
    count: int = 1
    """How many there are, on all machines."""
    local_rank: int = 0
    """Which of those on this machine it is, and so which GPU it has."""

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def total(self, value: float) -> float:
        """The sum of a number over all processes."""
        if self.count == 1:
            return value
        import torch.distributed as dist

        numbers = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(numbers)
        return float(numbers)

    def anybody(self, *, says: bool) -> bool:
        """Whether any of them says so."""
        return self.total(float(says)) > 0

    def gather(self, value: Any) -> list[Any]:
        """What each of them gives, by rank; also the way to wait until all are here."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def together(self, work: Callable[[], Result]) -> list[Result]:
        """What each one's `work` returns, by rank; a UserError that any of them raises is raised in all."""
        if self.count == 1:
            return [work()]
        found: list[tuple[Result | None, str | None]] = self.gather(_tried(work))
        _raise_first(words for _result, words in found)
        return [result for result, _words in found]  # type: ignore[misc]

    def of_leader(self, work: Callable[[], Result], *, slow: bool = False) -> Result:
        """What the leader's `work` returns, in all processes; a UserError that it raises is raised in all.

        `slow` work may take longer than the others wait: they hear from time to time that it goes on.
        """
        if self.count == 1:
            return work()
        import torch.distributed as dist

        with self._heard() if slow else nullcontext():
            found: list[Any] = [_tried(work) if self.leads else None]
        dist.broadcast_object_list(found, src=0)
        result, words = found[0]
        _raise_first([words])
        return result  # type: ignore[no-any-return]

    @contextmanager
    def _heard(self) -> Iterator[None]:
        """Inside this block the leader works, in its main thread, and the others wait for it outside."""
        if not self.leads:
            while self.anybody(says=False):
                pass
            yield
            return
        done = threading.Event()

        def say_so() -> None:
            with suppress(RuntimeError):  # the others are gone, as the main thread will notice
                while not done.wait(PULSE):
                    self.anybody(says=True)
                self.anybody(says=False)

        pulse = threading.Thread(target=say_so, daemon=True)
        pulse.start()
        try:
            yield
        finally:
            done.set()
            pulse.join()

    @contextmanager
    def shared(self, place: AbstractContextManager[object]) -> Iterator[None]:
        """Be in a context that the leader alone enters, before all others, and leaves when all are done."""

        def enter() -> None:
            stack.enter_context(place)

        with ExitStack() as stack:
            self.of_leader(enter)
            yield
            self.gather(None)
            self.of_leader(stack.close)


def _tried(work: Callable[[], Result]) -> tuple[Result | None, str | None]:
    """What work returns, or the words of its UserError."""
    try:
        return work(), None
    except UserError as error:
        return None, str(error)


def _raise_first(problems: Iterable[str | None]) -> None:
    for words in problems:
        if words is not None:
            raise UserError(words)


ALONE = Crew()
"""One process by itself."""


def launched() -> bool:
    """Whether this process was started as one of several, by Imprint, torchrun or deepspeed."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def orphaned() -> bool:
    """Whether the process that launched this one is gone."""
    return LAUNCHER in os.environ and os.getppid() != int(os.environ[LAUNCHER])


@contextmanager
def join(device: str | None, *, grouped: bool = False) -> Iterator[Crew]:
    """Meet the processes that were started together with this one; alone where it was started by itself, `grouped` as a group of one.

    `device` is the name of what is computed on, None for a GPU where there is one. On GPUs each process takes its own. Raises UserError
    where the machine has fewer.
    """
    import torch.distributed as dist

    on_gpu = device != "cpu" and torch.cuda.is_available()
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    if not launched():
        if grouped:
            dist.init_process_group(backend, store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
        try:
            yield ALONE
        finally:
            if grouped:
                dist.destroy_process_group()
        return
    crew = Crew(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0")))
    if on_gpu:
        if crew.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"process {crew.rank} has no GPU: this machine has {torch.cuda.device_count()}, and process {crew.local_rank} of it was "
                "started. Start one process for each GPU (engine.processes=null)."
            )
        torch.cuda.set_device(crew.local_rank)
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield crew
    except RuntimeError as error:
        if not any(words in str(error) for words in LOST_WORDS):
            raise
        raise UserError(
            Bilingual(
                f"{LOST}: one of them has ended. What was saved is kept: run the same command again to go on "
                f"({str(error).partition(chr(10))[0][:200]}).",
                "与其他进程的连接已断开；已保存的内容不受影响，再次运行同一命令即可继续。",
            )
        ) from error
    finally:
        dist.destroy_process_group()


def leave_word(error: UserError) -> bool:
    """Write a sentence where the launcher looks for it, which tells it once for all; False where nobody does."""
    folder = os.environ.get(ERRORS)
    if folder is None or not launched():
        return False
    Path(folder, f"error-{int(os.environ['RANK']):05d}.txt").write_text(str(error), encoding="utf-8")
    return True
