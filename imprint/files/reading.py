"""Files that are read whole, within bounds: neither a pipe nor a file of any size holds up a command or fills the memory."""

import json
import stat
from pathlib import Path
from typing import Any, Final

from imprint.messages import Bilingual, UserError

MAX_METADATA_BYTES: Final = 2**24
"""Largest recipe, config.json or index that is read; that of the largest published model has 9 MB."""
MAX_MODEL_FILE_BYTES: Final = 2**27
"""Largest vocabulary or chat template that is read."""
MAX_LINES_BYTES: Final = 2**28
"""Largest log, or other file of JSON lines of a run, that is read."""
MAX_LINE_BYTES: Final = 2**24
"""Longest line of such a file."""
MAX_JSON_VALUES: Final = 1_000_000
"""Maximum number of values in a JSON file that is read whole."""
MAX_LINES_VALUES: Final = 8_000_000
"""Maximum number of values in a file of JSON lines; a log has eight for each step."""
LFS_HEADER = b"version https://git-lfs"


def require_regular(path: Path) -> None:
    """Raise UserError for a pipe, a socket or a device, whose reader could wait or read for ever; OSError if there is no such file."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(
            Bilingual(
                f"{path} is not a regular file, but a pipe, a socket or a device. Give a file.",
                f"{path} 不是普通文件，而是管道、套接字或设备：请给出文件。",
            )
        )


def read_bounded(path: Path, limit: int = MAX_METADATA_BYTES) -> bytes:
    """The content of a file that is read whole. Raises UserError if it is no regular file or has more than `limit` bytes, and OSError."""
    refuse_large(path, limit)
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:  # it has grown meanwhile
        raise _too_large(path, limit)
    return content


def refuse_large(path: Path, limit: int) -> None:
    """Raise UserError for what is no regular file, and for a file of more than `limit` bytes; OSError if there is no such file."""
    require_regular(path)
    if path.stat().st_size > limit:
        raise _too_large(path, limit)


def _too_large(path: Path, limit: int) -> UserError:
    return UserError(
        Bilingual(
            f"{path} has more than {limit / 2**20:.0f} MiB, which no file of its kind has. Is it another file?",
            f"{path} 超过 {limit / 2**20:.0f} MiB，同类文件不会这么大：请检查是否给错了文件。",
        )
    )


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of a file, each newline one character; errors as `read_bounded`, and UnicodeDecodeError."""
    return read_bounded(path).decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, encoding: str = "utf-8") -> Any:
    """The value in a JSON file; errors as `read_bounded`, ValueError for what is no JSON, and RecursionError."""
    content = read_bounded(path)
    refuse_many_values(content)
    return json.loads(content.decode(encoding))


def refuse_many_values(content: bytes) -> None:
    """Raise ValueError for JSON of more values than any file has that is read whole."""
    if (values := count_values(content)) > MAX_JSON_VALUES:
        raise ValueError(f"it has {values:,} values, more than {MAX_JSON_VALUES:,}")


def count_values(content: bytes) -> int:
    """How many values JSON has at most, by its commas and brackets: a value of two bytes takes sixty in memory."""
    return 1 + content.count(b",") + content.count(b"[") + content.count(b"{")


def refuse_undecodable_name(path: Path) -> None:
    """Raise UserError for a path whose bytes are no UTF-8, which the libraries that map files to memory cannot open."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            Bilingual(
                f"{path}: the name of this file or of its folder is no UTF-8, as those of old Chinese archives in GBK; its content is not "
                "read. Rename it.",
                f"{path}：文件或目录名不是 UTF-8（例如旧压缩包的 GBK 文件名），内容没有读取：请改名。",
            )
        ) from error


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
