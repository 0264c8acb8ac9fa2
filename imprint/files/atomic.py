"""Atomic writes: a file or folder that has its final name is complete.

Everything is written under a hidden temporary name in the same folder, synced to disk, and renamed. A folder that replaces
another one goes through four steps; a process killed between any two of them leaves a complete folder behind:

    1. write `.adapter.part/`, fsync          killed: `adapter/` is the old one
    2. rename `adapter/` to `.adapter.old/`   killed: `.adapter.old/` is the old one, found by `find_folder`
    3. rename `.adapter.part/` to `adapter/`  killed: `adapter/` is the new one
    4. delete `.adapter.old/`                 killed: `adapter/` is the new one

A temporary name may be there already: left by a killed process, which is removed, or an untrusted link, which is not followed. One that
another process holds stays: a second writer of a text waits for the first one, a second writer of a large file or a folder is refused.
Readers call `find_folder`, which changes nothing and may run beside a writer; the one writer of a folder calls
`remove_leftovers` before it starts. In a file of JSON lines a line counts once its newline is there.
"""

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from imprint.files.disk_errors import translate_disk_errors
from imprint.files.held import SHARED_MODE, held_file, held_folder, remove_unheld
from imprint.files.links import remove
from imprint.files.reading import MAX_LINE_BYTES, MAX_LINES_BYTES, MAX_LINES_VALUES, count_values, refuse_large
from imprint.messages import Bilingual, UserError

TEMPORARY_SUFFIX = ".part"
BACKUP_SUFFIX = ".old"
MAX_WAIT_SECONDS = 30.0
"""How long the writer of a text waits for another one."""
LONE_SURROGATES = re.compile("[\ud800-\udfff]")


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically (UTF-8); creates missing folders."""
    with translate_disk_errors(path):
        temporary = _temporary_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with held_file(temporary, path, wait_seconds=MAX_WAIT_SECONDS):
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        _fsync(path.parent)


def write_json(path: Path, value: object) -> None:
    """Write `value` to `path` atomically as indented JSON; NaN and infinities become null."""
    write_text(path, _json_text(nonfinite_to_null(value), indent=2) + "\n")


def write_jsonl(path: Path, values: Iterable[object]) -> None:
    """Write values to `path` atomically, each as one line of JSON."""
    write_text(path, "".join(_json_text(value) + "\n" for value in values))


def append_jsonl(path: Path, value: object) -> None:
    """Append `value` as one line of JSON; an unfinished last line, left by a killed process, is removed first."""
    line = _json_text(nonfinite_to_null(value)) + "\n"
    with translate_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            file.truncate(_size_of_whole_lines(path))
            file.write(line.encode())


def _json_text(value: object, indent: int | None = None) -> str:
    """JSON with Chinese readable, unless UTF-8 cannot hold a text: a file may have lone surrogates, as escapes."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return json.dumps(value, indent=indent) if LONE_SURROGATES.search(text) else text


def read_jsonl(path: Path) -> list[Any]:
    """The values in a file that `append_jsonl` wrote, without an unfinished last line; empty if there is no file."""
    return list(jsonl_values(path))


def jsonl_values(path: Path) -> Iterator[Any]:
    """The values of `read_jsonl`, one by one."""
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(
                Bilingual(
                    f"{path}:{number}: this is not a line of JSON. Correct or delete the line, then run again.",
                    f"{path}:{number}：这一行不是 JSON。请改正或删除后重试。",
                )
            ) from error
        yield value


def whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file that `append_jsonl` wrote, without an unfinished last one; the file is never whole in memory.

    Raises UserError where the file has more in it than any run writes.
    """
    if not path.exists():
        return
    refuse_large(path, MAX_LINES_BYTES)
    values = 0
    with path.open("rb") as file:
        for number in count(1):
            line = file.readline(MAX_LINE_BYTES + 1)
            values += count_values(line)
            if values > MAX_LINES_VALUES or len(line) > MAX_LINE_BYTES:
                raise UserError(
                    Bilingual(
                        f"{path}:{number}: up to here the file has {values:,} values, and this line {len(line):,} bytes, as no file of its "
                        "kind. Is it another file?",
                        f"{path}:{number}：至此已有 {values:,} 个值，该行有 {len(line):,} 字节，同类文件不会这么多：请检查是否给错了文件。",
                    )
                )
            if not line.endswith(b"\n"):
                return
            yield line


@contextmanager
def atomic_file(path: Path, *, mode: int = SHARED_MODE) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it is renamed to `path`, replacing an old file; on an error nothing changes.

    `mode`: the permissions of the file from the first moment, less what the umask takes.
    """
    with translate_disk_errors(path):
        temporary = _temporary_file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with held_file(temporary, path, mode=mode):
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
    with translate_disk_errors(path), held_folder(temporary, path):
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


def remove_leftovers(parent: Path) -> None:
    """Remove temporary files and restore backups that a killed process left in `parent`; only its one writer may call this."""
    with translate_disk_errors(parent):
        if not parent.is_dir():
            return
        for entry in sorted(parent.iterdir()):
            if entry.name.startswith(".") and entry.name.endswith(BACKUP_SUFFIX):
                original = parent / entry.name[1 : -len(BACKUP_SUFFIX)]
                if original.exists():
                    remove(entry)
                else:
                    entry.rename(original)
            elif entry.name.startswith(".") and entry.name.endswith(TEMPORARY_SUFFIX):
                remove_unheld(entry)  # of a page, perhaps, that another command writes now
        _fsync(parent)


def _swap_in(temporary: Path, path: Path) -> None:
    backup = _hidden_sibling(path, BACKUP_SUFFIX)
    if path.exists():
        remove(backup)
        path.rename(backup)
    temporary.rename(path)
    _fsync(path.parent)
    remove(backup)


def _temporary_file(path: Path) -> Path:
    """The temporary name of a file. Raises OSError for a folder, and UserError for a device or a pipe, which a rename would replace."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if path.exists() and not path.is_file():
        raise UserError(Bilingual(f"{path}: is a device or a pipe. Give the name of a file.", f"{path}：是设备或管道，请给出文件名。"))
    return _hidden_sibling(path, TEMPORARY_SUFFIX)


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
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows syncs only what is open for writing
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
