"""Folders that one process holds: temporary ones, which are removed after a kill, and outputs."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imprint.files.disk_errors import translate_disk_errors
from imprint.files.held import is_at, lock
from imprint.files.links import remove
from imprint.messages import Bilingual, UserError

SCRATCH_PREFIX = "imprint-scratch-"
RANDOM_PART = re.compile(r"[a-z0-9_]{8}")
"""What `tempfile.mkdtemp` adds to a prefix."""


@contextmanager
def scratch_folder(parent: Path | None = None, prefix: str = SCRATCH_PREFIX) -> Iterator[Path]:
    """Yield an empty folder in `parent`, by default the system's temporary files; removed at the end, as are those of killed processes.

    A process holds a lock on its folder, which the operating system releases when the process ends, for whatever reason.
    """
    parent = parent or Path(tempfile.gettempdir())
    remove_scratch(parent, prefix)
    folder, handle = _new_scratch(parent, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def remove_scratch(parent: Path, prefix: str = SCRATCH_PREFIX) -> None:
    """Remove what killed processes left: every folder in `parent` that has a name of ours and that no process has locked.

    Among the system's temporary files a folder that a user has named, such as `imprint-run`, is not ours.
    """
    for left in parent.glob(f"{prefix}*"):
        ours = prefix != SCRATCH_PREFIX or RANDOM_PART.fullmatch(left.name.removeprefix(prefix))
        if ours and not left.is_symlink() and left.is_dir() and (handle := _locked(left)) is not None:
            remove(left)
            os.close(handle)


def _new_scratch(parent: Path, prefix: str) -> tuple[Path, int | None]:
    """A new folder and its lock; made again if another process took it for a leftover before it was locked."""
    for is_last in (False, False, True):
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        handle = _locked(folder)
        if is_last or (handle is not None and folder.is_dir()):
            break
        remove(folder)
    return folder, handle


def _locked(folder: Path) -> int | None:
    """An open handle of a folder that holds its lock; None if another process holds it, or the system has no such locks."""
    if os.name == "nt":
        return None
    import fcntl

    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # another user's
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


@contextmanager
def locked_folder(path: Path, busy: Bilingual) -> Iterator[None]:
    """Hold a folder, which is made if needed, for one writing process; raises UserError with `busy` if another one holds it.

    The operating system releases it when the process ends. Where a disk or a system cannot lock folders, nothing is locked.
    """
    with translate_disk_errors(path):
        made = not path.exists()
    handle = _held_output(path, busy)
    try:
        yield
    finally:
        if made:
            with suppress(OSError):  # is kept unless it is empty
                path.rmdir()
        if handle is not None:
            os.close(handle)


def _held_output(path: Path, busy: Bilingual) -> int | None:
    """An open handle of a folder, which is made if needed, with its lock; None on Windows."""
    with translate_disk_errors(path):
        while True:
            path.mkdir(parents=True, exist_ok=True)
            if os.name == "nt":
                return None
            try:
                handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:  # removed meanwhile by a holder that has written nothing
                continue
            if not lock(handle):
                os.close(handle)
                raise UserError(busy)
            if is_at(handle, path.resolve()):
                return handle
            os.close(handle)
