"""Temporary files and folders that one process holds: what another one writes under the same name never gets in between.

The holder has a lock of the operating system on it, which ends with the process, for whatever reason. What is there without a lock is left
by a killed process, or untrusted, and is removed. Where a disk or a system has no such locks, nothing is held.
"""

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from imprint.messages import Bilingual, UserError

SHARED_MODE: Final = 0o666
PRIVATE_MODE: Final = 0o600
"""Of files that their owner alone may read."""
POLL_SECONDS: Final = 0.01
"""Time between two looks at what another process holds."""


@contextmanager
def held_file(path: Path, target: Path, *, wait_seconds: float = 0.0, mode: int = SHARED_MODE) -> Iterator[None]:
    """Hold a new, empty file that will become `target`; `mode`: its permissions from the first moment, less what the umask takes.

    Raises UserError if another process holds it, and still does after `wait_seconds`; and OSError.
    """
    handle = _hold(path, target, wait_seconds, partial(_made_file, mode=mode))
    try:
        yield
    finally:
        _release(handle)


@contextmanager
def held_folder(path: Path, target: Path) -> Iterator[None]:
    """Hold a new, empty folder that will become `target`. Raises UserError if another process holds it, and OSError."""
    handle = _hold(path, target, 0.0, _made_folder)
    try:
        yield
    finally:
        _release(handle)


def remove_unheld(path: Path) -> bool:
    """Remove a file, a link, a pipe or a folder unless another process holds it; returns whether it is gone. Raises OSError."""
    try:
        found = path.lstat()
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            path.unlink()
            return True
        handle = _opened(path)
        if handle is not None and not lock(handle):
            _release(handle)
            return False
        try:
            if handle is None or is_at(handle, path):
                shutil.rmtree(path) if stat.S_ISDIR(found.st_mode) else path.unlink()
        finally:
            _release(handle)
    except FileNotFoundError:  # its holder has renamed it, or a rival has removed it
        pass
    return True


def lock(handle: int) -> bool:
    """Lock an open file or folder; False if another process has locked it. True where there are no locks."""
    if os.name == "nt":
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network disks
        pass
    return True


def is_at(handle: int, path: Path) -> bool:
    """Whether an open file or folder is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _hold(path: Path, target: Path, wait_seconds: float, made: Callable[[Path], int | None]) -> int | None:
    """Make a file or folder and lock it, until the one that is locked is the one that has the name; its handle."""
    end = time.monotonic() + wait_seconds
    while True:
        if remove_unheld(path):
            try:
                handle = made(path)
            except FileExistsError:
                pass  # a rival has made it meanwhile
            else:
                if handle is None or (lock(handle) and is_at(handle, path)):
                    return handle
                os.close(handle)  # a rival took it for a leftover
        if time.monotonic() >= end:
            raise UserError(
                Bilingual(
                    f"{target}: another process is writing it. Wait for it, stop it, or choose another name to write to.",
                    f"{target}：已有进程正在写入：请等待或停止它，或换一个输出名称。",
                )
            )
        time.sleep(POLL_SECONDS)


def _made_folder(path: Path) -> int | None:
    """An open handle of a new folder; None where the system cannot lock it."""
    path.mkdir(parents=True)
    return _opened(path)


def _made_file(path: Path, *, mode: int) -> int | None:
    """An open handle of a new file; None where the system cannot lock it."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
    if os.name != "nt":
        return handle
    os.close(handle)  # Windows renames nothing that is open
    return None


def _opened(path: Path) -> int | None:
    """An open handle of a file or folder, which is no link; None if it cannot be opened, and on Windows."""
    if os.name == "nt":
        return None
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except PermissionError:  # another user's
        return None


def _release(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)
