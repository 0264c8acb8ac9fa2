"""The folder of the database belongs to whoever runs the service: others who may write into it could make themselves its admins.

SQLite takes a log beside a database for a part of it: whoever can put one there writes accounts.
"""

import os
import stat
from pathlib import Path
from typing import Final

from imprint.messages import Bilingual
from imprint.serve.store.errors import StoreError

COMPANIONS: Final = ("-wal", "-shm", "-journal")
"""Endings of the files that SQLite keeps beside a database and reads when it opens it."""
SHARED: Final = stat.S_IWGRP | stat.S_IWOTH
OTHER_FOLDER: Final = Bilingual("or choose another folder: data=FOLDER.", "或另选目录：data=FOLDER。")
ROOT: Final = 0


def make_private(folder: Path, file_name: str) -> None:
    """Make a folder for its owner alone where it is missing; `file_name`: of the database that is, or will be, in it.

    Raises StoreError where another user may have written, or may write, what the service would believe.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.name == "nt":
        return
    file = (folder / file_name).resolve()  # SQLite keeps what is beside a database where a link leads
    for holder in {folder: None, file.parent: None}:
        _refuse_folder(holder)
    if file.exists() and file.stat().st_uid not in trusted_users():  # its permissions are mended when it is opened
        raise _foreign(file)
    for companion in (file.with_name(file.name + ending) for ending in COMPANIONS):
        if companion.is_symlink() or (companion.exists() and not _is_private(companion.stat())):
            raise _foreign(companion)


def trusted_users() -> frozenset[int]:
    """The numbers of the users whose files are believed: whoever runs this, and root, who may do everything anyway."""
    return frozenset((os.geteuid(), ROOT))


def _refuse_folder(folder: Path) -> None:
    found = folder.stat()
    if found.st_uid not in trusted_users():
        raise _refused(
            f"{folder}: belongs to another user of this machine, who can replace the database. Run this as that user, or "
            f"`sudo chown $(id -un) {folder}`, {OTHER_FOLDER.english}",
            f"{folder}：属于本机另一用户，其可替换数据库。请以该用户运行，或执行 `sudo chown $(id -un) {folder}`，{OTHER_FOLDER.chinese}",
        )
    if found.st_mode & SHARED:
        own = f"chmod 700 {folder}"
        command = own if found.st_uid == os.geteuid() else f"sudo chown $(id -un) {folder}; {own}"
        raise _refused(
            f"{folder}: other users of this machine may write into it, and so replace the database. Run `{command}`, or choose a folder in "
            f"it that is not there yet: data={folder / 'imprint'}.",
            f"{folder}：本机其他用户可写入，因而可替换数据库。请执行 `{command}`，或改用其中尚不存在的子目录：data={folder / 'imprint'}。",
        )


def _is_private(found: os.stat_result) -> bool:
    """Whether no other user can have written a file, or can write it."""
    return found.st_uid in trusted_users() and not found.st_mode & SHARED


def _foreign(file: Path) -> StoreError:
    return _refused(
        f"{file}: another user of this machine may have written it, and the database would take over what it says. Move it away; only "
        f"if you know that it is yours, `sudo chown $(id -un) {file}; chmod 600 {file}` instead.",
        f"{file}：可能由本机另一用户写入，其内容会被并入数据库。请移走它；确知是自己的文件时，才改为执行 "
        f"`sudo chown $(id -un) {file}; chmod 600 {file}`。",
    )


def _refused(english: str, chinese: str) -> StoreError:
    return StoreError("unavailable", Bilingual(english, chinese))
