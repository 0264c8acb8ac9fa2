"""Commands in processes of their own that are killed, or whose disk refuses: a fork each, so that nothing is imported again."""

import errno
import gc
import importlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import imprint.report.curve as curve
from imprint.cli import main
from imprint.events import Event
from imprint.report.figure import save_figure

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")
REFUSED = {errno.ENOSPC: ("os.mkdir",), errno.EROFS: CHANGES}
"""What a disk says -> what it refuses besides writing."""
SLOWER_SECONDS = 0.004

Prepare = Callable[[], None]


def ready_to_fork(modules: Iterable[str]) -> None:
    """Import what the forks need, and keep it out of their garbage collections, each of which would copy all of it."""
    torch.set_num_threads(1)  # and no parallel work before a fork
    for name in modules:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def blank_pictures() -> None:
    """From now on a picture is written as ever, as large as ever, and blank: to draw one takes longer than all steps of a short run."""

    def drawn(_events: Sequence[Event], out: Path, **_knobs: object) -> None:
        save_figure(Figure(), out)

    def written(_figure: Figure, place: Path, **_knobs: object) -> None:
        place.write_bytes(bytes(30_000))

    setattr(curve, "draw_curves", drawn)  # noqa: B010
    setattr(Figure, "savefig", written)  # noqa: B010


def start(command: list[str], screen: Path, prepare: Prepare | None = None) -> int:
    """Fork a process that runs `imprint COMMAND`; returns its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        handle = os.open(screen, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        if prepare is not None:
            prepare()
        status = main(command)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def end(child: int) -> int:
    """Wait for a process; its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(child: int, log: Path, lines: int, seconds: float) -> bool:
    """Kill a process so many seconds after `log` has grown to so many lines; False if it was done before."""
    until = None
    while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if until is None and line_count(log) >= lines:
            until = time.monotonic() + seconds
        if until is not None and time.monotonic() >= until:
            os.kill(child, signal.SIGKILL)
            break
        time.sleep(0.0005)
    return end(child) == -signal.SIGKILL


def line_count(log: Path) -> int:
    """The lines of a file, which need not be there."""
    try:
        return log.read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def kill_before_change(number: int, folder: Path) -> Prepare:
    """In the child: die right before the change on the disk that has this number, counted from 1."""
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return before_changes(folder, CHANGES, count)


def refuse_changes(number: int, folder: Path, code: int) -> Prepare:
    """In the child: the disk refuses the change of this number and all later ones, as a full or a read-only one does."""
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen >= number:
            raise OSError(code, os.strerror(code))

    return before_changes(folder, REFUSED[code], count)


def small_files(size: int) -> Prepare:
    """In the child: no file grows above so many bytes; the system itself refuses."""

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return prepare


def before_changes(folder: Path, changes: Sequence[str], count: Callable[[], None]) -> Prepare:
    """In the child: call `count` before anything in the folder is opened to be written or brought to the disk, and before these changes."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in changes or (event == "open" and _writes(arguments, folder)):
            count()

    def prepare() -> None:
        sync = os.fsync

        def counted(fd: Any) -> None:
            count()
            sync(fd)

        os.fsync = counted
        sys.addaudithook(hook)

    return prepare


def slow_disk() -> None:
    """In the child: every fsync takes longer, so that a random kill hits a save more often."""
    sync = os.fsync

    def slow(fd: Any) -> None:
        time.sleep(SLOWER_SECONDS)
        sync(fd)

    os.fsync = slow


def _writes(arguments: tuple[Any, ...], folder: Path) -> bool:
    path, mode, _flags = arguments
    return isinstance(path, str | Path) and str(path).startswith(str(folder)) and isinstance(mode, str) and any(x in mode for x in "wax+")
