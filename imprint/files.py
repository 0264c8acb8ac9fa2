"""Writing files and folders so that whatever carries its final name is complete.

Everything is written under a dotted name beside its place, brought to the disk, and renamed. A folder that replaces
another one goes through four steps, and a process killed between any two of them leaves a complete folder behind:

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

PART = ".part"
OLD = ".old"
LFS_START = b"version https://git-lfs"
DISK_PROBLEMS = {
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
# safetensors and torch report a full disk in their own exceptions; torch's has not even the system's words inside.
FULL_DISK_WORDS = ("unexpected pos", "PytorchStreamWriter failed writing", "iostream error")
SAID_BY_LIBRARIES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def write_text(path: Path, text: str) -> None:
    """Replace the file at `path` by `text` (UTF-8); the folder is made if need be, and the old file stays until the new one is complete."""
    with disk_sentences(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _aside(path, PART)
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync(path.parent)


def write_json(path: Path, value: object) -> None:
    """Replace the file at `path` by `value` as indented JSON; a number that is not finite becomes null."""
    write_text(path, json.dumps(finite(value), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def append_line(path: Path, value: object) -> None:
    """Add `value` as one line of JSON, dropping first what a killed process left of an unfinished line."""
    line = json.dumps(finite(value), ensure_ascii=False, allow_nan=False) + "\n"
    with disk_sentences(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            file.truncate(_end_of_last_line(path))
            file.write(line.encode())


def read_lines(path: Path) -> list[Any]:
    """The values of a file that `append_line` wrote, without an unfinished last line; an absent file has none."""
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
def new_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it takes its name, replacing what was there; on an error nothing changes."""
    part = _aside(path, PART)
    with disk_sentences(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            _sync(part)
            part.replace(path)
            _sync(path.parent)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; on success it takes the name `path`, replacing what was there; on an error nothing changes."""
    part = _aside(path, PART)
    with disk_sentences(path):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            yield part
            _sync_tree(part)
            _put_in_place(part, path)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def part_of(path: Path) -> Path:
    """Where `new_folder` has what will be `path`, until it is complete: for the other processes that write it too."""
    return _aside(path, PART)


def find_folder(path: Path) -> Path | None:
    """Where the complete folder of this name is: `path`, the folder it was about to replace when a process was killed, or nowhere."""
    if path.is_dir() or not path.name:  # "." and "/" have no name, and nothing beside them
        return path
    return old if (old := _aside(path, OLD)).is_dir() else None


def refuse_pointer(path: Path) -> None:
    """Raise UserError where `path` is what Git LFS left in place of a large file; what cannot be read is its reader's business."""
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_START))
    except OSError:
        return
    if start == LFS_START:
        raise UserError(f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull` in its folder, or download the file again.")


def read_whole(path: Path, what: str) -> bytes:
    """The content of a file of a model folder, which must be `what`; UserError where it cannot be read, is empty or stands for another."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    refuse_pointer(path)
    if not content:
        raise UserError(f"{path} is empty, where {what} is needed. Download the file again.")
    return content


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model folder; UserError where it cannot be read or is something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}). Download the file again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: must hold one JSON object, found {type(found).__name__}. Download the file again.")
    return found


def remove_leftovers(parent: Path) -> None:
    """Undo what a killed process left half done in `parent`; only the one process that writes there may call it."""
    with disk_sentences(parent):
        if not parent.is_dir():
            return
        for entry in sorted(parent.iterdir()):
            if entry.name.startswith(".") and entry.name.endswith(OLD):
                original = parent / entry.name[1 : -len(OLD)]
                if original.exists():
                    _remove(entry)
                else:
                    entry.rename(original)
            elif entry.name.startswith(".") and entry.name.endswith(PART):
                _remove(entry)
        _sync(parent)


@contextmanager
def disk_sentences(path: Path) -> Iterator[None]:
    """Turn what a disk refuses while `path` is written into a UserError; for what writes by itself, such as a library."""
    try:
        yield
    except UserError:  # told already, perhaps of what was read meanwhile
        raise
    except Exception as error:
        code = getattr(error, "errno", None) or _code(str(error))
        if code not in DISK_PROBLEMS:
            raise
        raise UserError(f"{path}: cannot be written: {DISK_PROBLEMS[code]}.") from error


def _code(words: str) -> int | None:
    """What a library's own exception says of the disk."""
    if any(sign in words for sign in FULL_DISK_WORDS):
        return errno.ENOSPC
    return next((code for code in SAID_BY_LIBRARIES if os.strerror(code) in words), None)


def _put_in_place(part: Path, path: Path) -> None:
    old = _aside(path, OLD)
    if path.exists():
        _remove(old)
        path.rename(old)
    part.rename(path)
    _sync(path.parent)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _aside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}{ending}")


def _end_of_last_line(path: Path) -> int:
    """The size in bytes of `path` up to and with its last newline."""
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


def finite(value: Any) -> Any:
    """`value` with null for what JSON cannot say: NaN and the infinities."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _sync_tree(folder: Path) -> None:
    for root, _folders, names in os.walk(folder):
        for name in names:
            file = Path(root, name)
            file.chmod(folder.stat().st_mode & 0o666)  # safetensors writes for its owner only
            _sync(file)
        _sync(Path(root))


def _sync(path: Path) -> None:
    """Bring a file, or the list of names of a folder, to the disk."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
