"""Links and special entries in an untrusted folder."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from imprint.messages import Bilingual, UserError

MAX_LEVELS: Final = 32
"""Most levels of folders in an entry of a run: Python's own walks end in a RecursionError after some hundred."""


def refuse_outside_links(folder: Path, files: Iterable[Path]) -> None:
    """Raise UserError if one of these files in a folder is a link that leads out of it: it may name any file of this machine.

    The files of a Hugging Face cache's `snapshots` are links into its `blobs`, which count as inside.
    """
    home = folder.resolve()
    homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    for file in files:
        target = resolved(file)
        if not any(target.is_relative_to(inside) for inside in homes):
            raise UserError(
                Bilingual(
                    f"{file}: is a link to {target}, outside of its folder, and is neither read nor copied into the output. "
                    "Replace the link by the file, or delete it.",
                    f"{file}：该文件是指向目录之外的链接，不会读取，也不会复制到要分发的内容中：请换成文件本身，或删除该链接。",
                )
            )


def follow_link(path: Path) -> Path:
    """The path that is meant by an output that is a link, so that it is written where the link leads; any other path unchanged.

    Raises UserError for a link that leads back to itself.
    """
    return resolved(path) if path.is_symlink() else path


def resolved(path: Path) -> Path:
    """The path without links. Raises UserError for a link that leads back to itself."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: before Python 3.13
        raise UserError(
            Bilingual(
                f"{path}: is a link that leads back to itself. Delete the link, or choose another path.",
                f"{path}：是循环链接：请删除它，或换一个路径。",
            )
        ) from error


def from_home(name: str) -> Path:
    """The path of a name; `~` and `~user` are expanded. Raises UserError for a user who has no home folder."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise UserError(
            Bilingual(f"{name}: there is no such home folder. Give a path without ~.", f"{name}：请给出不带 ~ 的路径。")
        ) from None


def refuse_special_entries(folder: Path, entry: Path) -> None:
    """Raise UserError if `entry` of a folder, or anything below it, is a link that leads out of the folder, or no file and no folder.

    An untrusted folder may have such entries: reading a pipe has no end, and a link may lead to any file that is then replaced. A link to
    another place in the folder is followed, since whoever reads a path follows it. Raises UserError for too many levels of folders, too.
    """
    for found in _with_all_below(folder, entry):
        if found.is_symlink():
            refuse_outside_links(folder, [found])
        if found.exists() and not (found.is_file() or found.is_dir()):
            raise UserError(
                Bilingual(
                    f"{found}: is neither a file nor a folder. Delete it, then run again.", f"{found}：既不是文件也不是目录：请删除后重试。"
                )
            )


def _with_all_below(folder: Path, entry: Path) -> Iterator[Path]:
    """An entry of a folder and all that is below it; a folder comes before what is in it, and a linked one is gone through once.

    Its levels are counted where it is, not on the way there: that may be short, through links.
    """
    waiting, seen = [entry], set[tuple[int, int]]()
    top = len(resolved(folder).parts)
    while waiting:
        path = waiting.pop()
        yield path
        if not path.is_dir() or (found := _identity(path)) in seen:
            continue
        seen.add(found)
        if len(resolved(path).parts) - top > MAX_LEVELS:
            raise UserError(
                Bilingual(
                    f"{entry}: has folders in folders, {MAX_LEVELS} levels deep, as nothing has that Imprint writes. Delete them.",
                    f"{entry}：目录嵌套超过 {MAX_LEVELS} 层，Imprint 不会写出这样的目录：请删除。",
                )
            )
        with suppress(OSError), os.scandir(path) as inside:  # of another user, perhaps: then its reader says so
            waiting += [Path(one.path) for one in inside]


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def remove(path: Path) -> None:
    """Delete a file, a link (not what it names) or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
