"""Atomic writes: a file or folder that has its final name is complete.

Everything is written under a hidden temporary name in the same folder, synced to disk, and renamed. A folder that replaces
another one goes through four steps; a process killed between any two of them leaves a complete folder behind:

    1. write `.adapter.part/`, fsync          killed: `adapter/` is the old one
    2. rename `adapter/` to `.adapter.old/`   killed: `.adapter.old/` is the old one, found by `find_folder`
    3. rename `.adapter.part/` to `adapter/`  killed: `adapter/` is the new one
    4. delete `.adapter.old/`                 killed: `adapter/` is the new one

A temporary name may be there already: left by a killed process, which is removed, or a link of a stranger, which is not followed.
Readers call `find_folder`, which changes nothing and may run beside a writer; the one writer of a folder calls
`remove_leftovers` before it starts. In a file of JSON lines a line counts once its newline is there.
"""

import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from imprint.messages import Bilingual, UserError
from imprint.reading import MAX_LINES_BYTES, MAX_MODEL_FILE_BYTES, read_bounded, read_json, require_regular

TEMPORARY_SUFFIX = ".part"
BACKUP_SUFFIX = ".old"
SCRATCH_PREFIX = "imprint-"
MAX_LINES_NODES = 2_000_000
"""Maximum number of lists and objects in a file of JSON lines; a log has about one for each step."""
HALVES = re.compile("[\ud800-\udfff]")
LFS_HEADER = b"version https://git-lfs"
NO_SPACE = Bilingual(
    "no space is left on the disk. Free some space, or choose a folder on another disk", "磁盘空间不足：请清理空间，或换一个磁盘上的目录"
)
NOT_PERMITTED = Bilingual("permission is denied. Choose a folder that you may write to", "没有写入权限：请换一个可写的目录")
FILE_IN_PATH = Bilingual("a part of the path is a file, not a folder. Choose another path", "路径中有一部分是文件而不是目录：请换一个路径")
DISK_ERRORS = {
    errno.ENOSPC: NO_SPACE,
    errno.EDQUOT: Bilingual(
        "your disk quota is used up. Free some space, or choose a folder on another disk",
        "磁盘配额已用完：请清理空间，或换一个磁盘上的目录",
    ),
    errno.EROFS: Bilingual("the disk is read-only. Choose a folder that can be written", "磁盘是只读的：请换一个可写的目录"),
    errno.EACCES: NOT_PERMITTED,
    errno.EPERM: NOT_PERMITTED,
    errno.EEXIST: FILE_IN_PATH,
    errno.ENOTDIR: FILE_IN_PATH,
    errno.EISDIR: Bilingual("a folder has this name. Move it away, or choose another name", "已有同名目录：请移走它，或换一个名字"),
    errno.ENOENT: Bilingual(
        "its folder does not exist and cannot be created. Choose another path", "所在目录不存在，也无法创建：请换一个路径"
    ),
    errno.EFBIG: Bilingual(
        "the file would be larger than this disk or `ulimit -f` allows. Choose a folder on another disk, or raise the limit",
        "文件超过磁盘或 `ulimit -f` 的大小限制：请换一个磁盘上的目录，或提高限制",
    ),
    errno.EIO: Bilingual(
        "the disk reports an error. Choose a folder on another disk, and check this one",
        "磁盘报告错误：请换一个磁盘上的目录，并检查这块磁盘",
    ),
    errno.ESTALE: Bilingual(
        "the network disk has lost it. Mount it again, or choose another folder", "网络磁盘已失效：请重新挂载，或换一个目录"
    ),
    errno.ELOOP: Bilingual(
        "it is a link that leads back to itself. Delete the link, or choose another path", "这是循环链接：请删除它，或换一个路径"
    ),
    errno.EBUSY: Bilingual(
        "it is in use, perhaps as the folder of a disk. Choose a folder inside it", "正在被使用，可能是磁盘的挂载点：请在其中另选一个目录"
    ),
    errno.EXDEV: Bilingual("it is the folder of another disk. Choose a folder inside it", "这是另一块磁盘的挂载点：请在其中另选一个目录"),
    errno.ENAMETOOLONG: Bilingual("the name is too long for the disk. Choose a shorter one", "名字太长，磁盘不支持：请换一个短一些的名字"),
}
# safetensors and torch raise their own exceptions on a full disk; torch's does not even contain the system's message.
FULL_DISK_MESSAGES = ("unexpected pos", "PytorchStreamWriter failed writing", "iostream error")
ERRNOS_IN_MESSAGES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically (UTF-8); creates missing folders."""
    with translate_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _hidden_sibling(path, TEMPORARY_SUFFIX)
        _remove(temporary)
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
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
    """JSON with Chinese readable, unless UTF-8 cannot hold a text: a file may have halves of characters, as escapes."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return json.dumps(value, indent=indent) if HALVES.search(text) else text


def read_jsonl(path: Path) -> list[Any]:
    """The values in a file that `append_jsonl` wrote, without an unfinished last line; empty if there is no file."""
    if not path.exists():
        return []
    content = read_bounded(path, MAX_LINES_BYTES)
    nodes = content.count(b"[") + content.count(b"{")
    if nodes > MAX_LINES_NODES:
        raise UserError(
            Bilingual(
                f"{path} has {nodes:,} lists and objects, more than {MAX_LINES_NODES:,}, as no file of its kind. Is it another file?",
                f"{path} 有 {nodes:,} 个列表和对象，超过 {MAX_LINES_NODES:,} 个，同类文件不会这么多：请检查是否给错了文件。",
            )
        )
    *lines, _unfinished = content.split(b"\n")
    values = []
    for number, line in enumerate(lines, start=1):
        try:
            values.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise UserError(
                Bilingual(
                    f"{path}:{number}: this is not a line of JSON. Correct or delete the line, then run again.",
                    f"{path}:{number}：这一行不是 JSON。请改正或删除后重试。",
                )
            ) from error
    return values


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it is renamed to `path`, replacing an old file; on an error nothing changes."""
    temporary = _hidden_sibling(path, TEMPORARY_SUFFIX)
    with translate_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
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
        _remove(temporary)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            _fsync_tree(temporary)
            _swap_in(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def refuse_outside_links(folder: Path, files: Iterable[Path]) -> None:
    """Raise UserError if one of these files in a folder is a link that leads out of it: it may name any file of this machine.

    The files of a Hugging Face cache's `snapshots` are links into its `blobs`, which count as inside.
    """
    home = folder.resolve()
    homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    for file in files:
        target = _resolved(file)
        if not any(target.is_relative_to(inside) for inside in homes):
            raise UserError(
                Bilingual(
                    f"{file}: is a link to {target}, outside of its folder, and is neither read nor copied into the output. "
                    "Replace the link by the file, or delete it.",
                    "该文件是指向目录之外的链接，不会读取，也不会复制到要分发的内容中：请换成文件本身，或删除该链接。",
                )
            )


def follow_link(path: Path) -> Path:
    """The path that is meant by an output that is a link, so that it is written where the link leads; any other path unchanged.

    Raises UserError for a link that leads back to itself.
    """
    return _resolved(path) if path.is_symlink() else path


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: before Python 3.13
        raise UserError(
            Bilingual(
                f"{path}: is a link that leads back to itself. Delete the link, or choose another path.",
                f"{path}：是循环链接：请删除它，或换一个路径。",
            )
        ) from error


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
    """Remove what killed processes left: every folder in `parent` whose name begins with `prefix` and that no process has locked."""
    for left in parent.glob(f"{prefix}*"):
        if not left.is_symlink() and left.is_dir() and (handle := _locked(left)) is not None:
            _remove(left)
            os.close(handle)


def _new_scratch(parent: Path, prefix: str) -> tuple[Path, int | None]:
    """A new folder and its lock; made again if another process took it for a leftover before it was locked."""
    for is_last in (False, False, True):
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        handle = _locked(folder)
        if is_last or (handle is not None and folder.is_dir()):
            break
        _remove(folder)
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


def refuse_special_entries(folder: Path, entry: Path) -> None:
    """Raise UserError if `entry` of a folder, or anything below it, is a link that leads out of the folder, or no file and no folder.

    A stranger's folder may have such entries: reading a pipe has no end, and a link may lead to any file that is then replaced.
    """
    below = (Path(root, name) for root, folders, names in os.walk(entry) for name in (*folders, *names)) if entry.is_dir() else ()
    for found in (entry, *below):
        if found.is_symlink():
            refuse_outside_links(folder, [found])
        if found.exists() and not (found.is_file() or found.is_dir()):
            raise UserError(
                Bilingual(
                    f"{found}: is neither a file nor a folder. Delete it, then run again.", f"{found}：既不是文件也不是目录：请删除后重试。"
                )
            )


@contextmanager
def locked_folder(path: Path, busy: Bilingual) -> Iterator[None]:
    """Hold a folder, which is made if needed, for one writing process; raises UserError with `busy` if another one holds it.

    The operating system releases it when the process ends. Where a disk or a system cannot lock folders, nothing is locked.
    """
    with translate_disk_errors(path):
        made = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":
        yield
        return
    import fcntl

    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(busy) from None
        except OSError:  # some network disks
            pass
        try:
            yield
        finally:
            if made:
                with suppress(OSError):  # is kept unless it is empty
                    path.rmdir()
    finally:
        os.close(handle)


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
        require_regular(path)
        with path.open("rb") as file:
            header = file.read(len(LFS_HEADER))
    except OSError:
        return
    if header == LFS_HEADER:
        raise UserError(
            Bilingual(
                f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull` in its folder, or download the file again.",
                f"{path} 是 Git LFS 指针，不是文件本身。请在其目录中运行 `git lfs pull`，或重新下载。",
            )
        )


def read_model_file(path: Path, content_name: str) -> bytes:
    """The content of a file in a model folder; UserError if it is unreadable, empty or a Git LFS pointer.

    `content_name` says in the message what the file should hold.
    """
    try:
        content = read_bounded(path, MAX_MODEL_FILE_BYTES)
    except OSError as error:
        raise UserError(Bilingual(f"{path} cannot be read: {error.strerror}.", f"{path} 无法读取：{error.strerror}。")) from error
    refuse_lfs_pointer(path)
    if not content:
        raise UserError(
            Bilingual(f"{path} is empty, where {content_name} is needed. Download the file again.", f"{path} 是空文件。请重新下载。")
        )
    return content


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model folder; UserError if the file is unreadable or holds something else."""
    try:
        value = read_json(path)
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(
            Bilingual(
                f"{path}: cannot be read as JSON ({error}). Download the file again.", f"{path}：无法按 JSON 读取（{error}）。请重新下载。"
            )
        ) from error
    if not isinstance(value, dict):
        found = type(value).__name__
        raise UserError(
            Bilingual(
                f"{path}: must hold one JSON object, found {found}. Download the file again.",
                f"{path}：应是一个 JSON 对象，实际是 {found}。请重新下载。",
            )
        )
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
        english, chinese = DISK_ERRORS[code].english, DISK_ERRORS[code].chinese
        raise UserError(Bilingual(f"{path}: cannot be written: {english}.", f"{path}：无法写入：{chinese}。")) from error


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
    if path.is_dir() and not path.is_symlink():
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
