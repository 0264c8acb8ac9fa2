"""Atomic writes: a file or folder that has its final name is complete.

Everything is written under a hidden temporary name in the same folder, synced to disk, and renamed. A folder that replaces
another one goes through four steps; a process killed between any two of them leaves a complete folder behind:

    1. write `.adapter.part/`, fsync          killed: `adapter/` is the old one
    2. rename `adapter/` to `.adapter.old/`   killed: `.adapter.old/` is the old one, found by `find_folder`
    3. rename `.adapter.part/` to `adapter/`  killed: `adapter/` is the new one
    4. delete `.adapter.old/`                 killed: `adapter/` is the new one

Readers call `find_folder`, which changes nothing and may run beside a writer; the one writer of a folder calls
`remove_leftovers` before it starts. In a file of JSON lines a line counts once its newline is there.
"""

import errno
import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imprint.errors import UserError

TEMPORARY_SUFFIX = ".part"
BACKUP_SUFFIX = ".old"
LFS_HEADER = b"version https://git-lfs"
DISK_ERRORS = {
    errno.ENOSPC: "no space is left on the disk. Free some space, or choose a folder on another disk",
    errno.EDQUOT: "your disk quota is used up. Free some space, or choose a folder on another disk",
    errno.EROFS: "the disk is read-only. Choose a folder that can be written",
    errno.EACCES: "permission is denied. Choose a folder that you may write to",
    errno.EPERM: "permission is denied. Choose a folder that you may write to",
    errno.EEXIST: "a part of the path is a file, not a folder. Choose another place",
    errno.ENOTDIR: "a part of the path is a file, not a folder. Choose another place",
    errno.EISDIR: "a folder is in its place. Move it away, or choose another name",
    errno.ENOENT: "its folder is gone, or none can be made there. Choose another place",
    errno.EFBIG: "the file would be larger than this disk or `ulimit -f` allows. Choose a folder on another disk, or raise the limit",
    errno.EIO: "the disk reports an error. Choose a folder on another disk, and look after this one",
    errno.ESTALE: "the network disk has lost it. Mount it again, or choose another folder",
    errno.ENAMETOOLONG: "the name is too long for the disk. Choose a shorter one",
}
# safetensors and torch raise their own exceptions on a full disk; torch's does not even contain the system's message.
FULL_DISK_MESSAGES = ("unexpected pos", "PytorchStreamWriter failed writing", "iostream error")
ERRNOS_IN_MESSAGES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically (UTF-8); creates missing folders."""
    with translate_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _hidden_sibling(path, TEMPORARY_SUFFIX)
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _fsync(path.parent)


def write_json(path: Path, value: object) -> None:
    """Write `value` to `path` atomically as indented JSON; NaN and infinities become null."""
    write_text(path, json.dumps(nonfinite_to_null(value), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def append_jsonl(path: Path, value: object) -> None:
    """Append `value` as one line of JSON; an unfinished last line, left by a killed process, is removed first."""
    line = json.dumps(nonfinite_to_null(value), ensure_ascii=False, allow_nan=False) + "\n"
    with translate_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            file.truncate(_size_of_whole_lines(path))
            file.write(line.encode())


def read_jsonl(path: Path) -> list[Any]:
    """The values in a file that `append_jsonl` wrote, without an unfinished last line; empty if there is no file."""
    if not path.exists():
        return []
    *lines, _unfinished = path.read_bytes().split(b"\n")
    values = []
    for number, line in enumerate(lines, start=1):
        try:
            values.append(json.loads(line))
        except ValueError as error:
            raise UserError(f"{path}:{number}: this is not a line of JSON. Mend or delete the line, then run again.") from error
    return values


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it is renamed to `path`, replacing an old file; on an error nothing changes."""
    temporary = _hidden_sibling(path, TEMPORARY_SUFFIX)
    with translate_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _fsync(temporary)
            temporary.replace(path)
            _fsync(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; on success it is renamed to `path`, replacing an old folder; on an error nothing changes."""
    temporary = _hidden_sibling(path, TEMPORARY_SUFFIX)
    with translate_disk_errors(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            _fsync_tree(temporary)
            _swap_in(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def temporary_path(path: Path) -> Path:
    """The folder that `atomic_folder(path)` yields; for other processes that write into the same folder."""
    return _hidden_sibling(path, TEMPORARY_SUFFIX)


def find_folder(path: Path) -> Path | None:
    """The complete folder of this name: `path`, or the backup of it if a process was killed during replacement, or None."""
    if path.is_dir() or not path.name:  # "." and "/" have no name, so no backup
        return path
    return backup if (backup := _hidden_sibling(path, BACKUP_SUFFIX)).is_dir() else None


def refuse_lfs_pointer(path: Path) -> None:
    """Raise UserError if `path` is a Git LFS pointer instead of the file itself; an unreadable file is left to its reader."""
    try:
        with path.open("rb") as file:
            header = file.read(len(LFS_HEADER))
    except OSError:
        return
    if header == LFS_HEADER:
        raise UserError(f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull` in its folder, or download the file again.")


def read_model_file(path: Path, what: str) -> bytes:
    """The content of a file in a model folder; UserError if it is unreadable, empty or a Git LFS pointer. `what` names what it must be."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    refuse_lfs_pointer(path)
    if not content:
        raise UserError(f"{path} is empty, where {what} is needed. Download the file again.")
    return content


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model folder; UserError if the file is unreadable or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}). Download the file again.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: must hold one JSON object, found {type(value).__name__}. Download the file again.")
    return value


def remove_leftovers(parent: Path) -> None:
    """Remove temporary files and restore backups that a killed process left in `parent`; only its one writer may call this."""
    with translate_disk_errors(parent):
        if not parent.is_dir():
            return
        for entry in sorted(parent.iterdir()):
            if entry.name.startswith(".") and entry.name.endswith(BACKUP_SUFFIX):
                original = parent / entry.name[1 : -len(BACKUP_SUFFIX)]
                if original.exists():
                    _remove(entry)
                else:
                    entry.rename(original)
            elif entry.name.startswith(".") and entry.name.endswith(TEMPORARY_SUFFIX):
                _remove(entry)
        _fsync(parent)


@contextmanager
def translate_disk_errors(path: Path) -> Iterator[None]:
    """Turn disk errors raised while `path` is written into a UserError; also for libraries that write files themselves."""
    try:
        yield
    except UserError:  # has its message already, perhaps about a file that was read meanwhile
        raise
    except Exception as error:
        code = getattr(error, "errno", None) or _errno_in(str(error))
        if code not in DISK_ERRORS:
            raise
        raise UserError(f"{path}: cannot be written: {DISK_ERRORS[code]}.") from error


def _errno_in(message: str) -> int | None:
    """The disk error that a library's own exception message describes."""
    if any(part in message for part in FULL_DISK_MESSAGES):
        return errno.ENOSPC
    return next((code for code in ERRNOS_IN_MESSAGES if os.strerror(code) in message), None)


def _swap_in(temporary: Path, path: Path) -> None:
    backup = _hidden_sibling(path, BACKUP_SUFFIX)
    if path.exists():
        _remove(backup)
        path.rename(backup)
    temporary.rename(path)
    _fsync(path.parent)
    _remove(backup)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _hidden_sibling(path: Path, suffix: str) -> Path:
    return path.with_name(f".{path.name}{suffix}")


def _size_of_whole_lines(path: Path) -> int:
    """The size in bytes of `path` up to and including its last newline."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 4096)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def nonfinite_to_null(value: Any) -> Any:
    """`value` with None for what JSON cannot hold: NaN and infinities."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: nonfinite_to_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [nonfinite_to_null(item) for item in value]
    return value


def _fsync_tree(folder: Path) -> None:
    for root, _folders, names in os.walk(folder):
        for name in names:
            file = Path(root, name)
            file.chmod(folder.stat().st_mode & 0o666)  # safetensors makes files that only their owner can read
            _fsync(file)
        _fsync(Path(root))


def _fsync(path: Path) -> None:
    """Sync a file, or the entries of a folder, to disk."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
