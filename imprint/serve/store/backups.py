"""Backups that admins ask for on the page: files beside the database, few of them, and never the last of the disk."""

import shutil
import time
from pathlib import Path
from typing import Final

from imprint.files.disk_errors import translate_disk_errors
from imprint.messages import Bilingual
from imprint.serve.store.audit import record
from imprint.serve.store.database import Database
from imprint.serve.store.errors import StoreError
from imprint.serve.store.permission import permitted_by
from imprint.serve.store.principal import Actor

FOLDER: Final = "backups"
MOST: Final = 10
"""Backups in the folder; nothing deletes them but whoever runs the service, as an older one may be the last good one."""
RESERVE_BYTES: Final = 2**30
"""What a backup leaves free on the disk, for all that the service writes itself."""


class Backups:
    """Writes backups into a folder of their own."""

    def __init__(self, folder: Path, database: Database) -> None:
        self._folder = folder / FOLDER
        self._database = database

    def write(self, actor: Actor) -> str:
        """Copy everything into a new file of the folder; the file's name.

        Raises StoreError "conflict" where there are many already, or the disk has too little room, and UserError for what the disk says.
        """
        name = f"backup-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09d}.sqlite"
        with self._database.writing():
            pass  # permission is asked for before the file is there
        with translate_disk_errors(self._folder):
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._refuse_without_room()
        self._database.backup(self._folder / name)
        with permitted_by(None), self._database.writing() as connection:  # said of every file that there is
            record(connection, self._database.now(), "backup", actor, detail=name)
        return name

    def _refuse_without_room(self) -> None:
        """Raise StoreError where there are many backups already, or the disk has too little room for another one."""
        count = sum(1 for _ in self._folder.glob("backup-*.sqlite"))
        if count >= MOST:
            raise StoreError(
                "conflict",
                Bilingual(
                    f"there are {count} backups in {FOLDER}/ of the data already. Move or delete some there first.",
                    f"数据目录的 {FOLDER}/ 中已有 {count} 个备份，请先移走或删除一些。",
                ),
            )
        free = shutil.disk_usage(self._folder).free - self._database.bytes_on_disk()
        if free < RESERVE_BYTES:
            raise StoreError(
                "conflict",
                Bilingual(
                    f"after another backup less than {RESERVE_BYTES // 2**20:,} MiB of the disk would be free. Make room first.",
                    f"再写一个备份后，磁盘空余将少于 {RESERVE_BYTES // 2**20:,} MiB，请先腾出空间。",
                ),
            )
