"""Errors of the disk as messages that say what to do."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imprint.messages import Bilingual, UserError

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
OF_A_NAME = {
    code: DISK_ERRORS[code] for code in (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EROFS, errno.EIO, errno.ESTALE, errno.EBUSY)
} | {
    code: Bilingual("permission is denied. Check who may read and write it", "没有权限：请检查其读写权限")
    for code in (errno.EACCES, errno.EPERM)
}
"""Errors of the system that are about the name or the disk, never about what Imprint does with it."""
# safetensors and torch raise their own exceptions on a full disk; torch's does not even contain the system's message.
FULL_DISK_MESSAGES = ("unexpected pos", "PytorchStreamWriter failed writing", "iostream error")
ERRNOS_IN_MESSAGES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def refuse_unwritable(folder: Path) -> None:
    """Raise UserError if nothing could be written into a folder, or the folder could not be made; before what takes long."""
    with translate_disk_errors(folder):
        nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not nearest.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "")


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


def name_error(error: OSError) -> UserError | None:
    """What is wrong with the path that an error of the system names, wherever it was met; None for any other error."""
    if error.filename is None or error.errno not in OF_A_NAME:
        return None
    problem, name = OF_A_NAME[error.errno], os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
    return UserError(Bilingual(f"{name}: {problem.english}.", f"{name}：{problem.chinese}。"))


def _errno_in(message: str) -> int | None:
    """The disk error that a library's own exception message describes."""
    if any(part in message for part in FULL_DISK_MESSAGES):
        return errno.ENOSPC
    return next((code for code in ERRNOS_IN_MESSAGES if os.strerror(code) in message), None)
