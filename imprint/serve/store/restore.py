"""Puts a backup in the place of the database."""

import os
import re
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from sqlalchemy import create_engine

from imprint.files.disk_errors import translate_disk_errors
from imprint.messages import Bilingual
from imprint.serve.store import sqlite
from imprint.serve.store.database import FILE_NAME
from imprint.serve.store.errors import StoreError
from imprint.serve.store.private_folder import make_private
from imprint.serve.store.rows import refuse_wrong_rows
from imprint.serve.store.schema import migrate, refuse_unknown_schema
from imprint.serve.store.store import hold_folder

KEPT_NAME = "before-restore.db"
"""The database that was replaced, beside the new one."""


def restore(file: Path, folder: Path) -> Path | None:
    """Replace the database of a folder by a backup, which is checked first; where the old one is kept, if there was one.

    All sessions end, so that none comes back that was ended since. Raises UserError while a service runs in the folder, and StoreError
    for a file that is no backup, is damaged, holds what the service never writes, or was written by a newer program.
    """
    if not file.is_file():
        raise StoreError("not_found", Bilingual(f"{file}: there is no such file.", f"{file}：没有这个文件。"))
    sqlite.check(file)
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        _check_tables(connection, file)
        refuse_wrong_rows(connection, file)
    with translate_disk_errors(folder):
        make_private(folder, FILE_NAME)
        held = hold_folder(folder)
        try:
            return _replace(file, folder / FILE_NAME)
        finally:
            os.close(held)


def _check_tables(connection: sqlite3.Connection, file: Path) -> None:
    """Raise StoreError unless a file has the tables of its version, and nothing that would act by itself, such as a trigger."""
    found, versions = {}, []
    with suppress(sqlite3.Error):  # such as a name that is no UTF-8
        found = _columns(connection)
        if found.get("alembic_version", [])[:2] == ["table", "version_num"]:
            versions = connection.execute("SELECT version_num FROM alembic_version LIMIT 2").fetchall()
    is_known = len(versions) == 1 and isinstance(versions[0][0], str) and bool(re.fullmatch(r"\w{1,32}", versions[0][0]))
    if is_known:
        refuse_unknown_schema(versions[0][0], file)
        engine = create_engine("sqlite://")
        with engine.begin() as fresh:
            migrate(fresh, file, versions[0][0])
            ours = fresh.connection.driver_connection
            assert isinstance(ours, sqlite3.Connection)
            is_known = found == _columns(ours)
        engine.dispose()
    if not is_known:
        raise sqlite.no_database(file, Bilingual("one with other tables", "表结构不符"))


def _columns(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """Tables with their columns, and to which rows these refer; indexes; also views and triggers, which a database of ours has not."""
    return {
        name: [kind, *(row[1] for row in connection.execute("SELECT * FROM pragma_table_info(?)", (name,))), *_keys(connection, name)]
        if kind == "table"
        else [kind]
        for kind, name in connection.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'").fetchall()
    }


def _keys(connection: sqlite3.Connection, table: str) -> list[str]:
    """The foreign keys of a table, and which columns are unique together."""
    foreign = connection.execute('SELECT "from", "table", coalesce("to", \'id\'), on_delete FROM pragma_foreign_key_list(?)', (table,))
    unique = connection.execute(
        "SELECT group_concat(found.name) FROM pragma_index_list(?) list, pragma_index_info(list.name) found "
        'WHERE list."unique" AND NOT list.partial GROUP BY list.name',
        (table,),
    )
    return sorted(" ".join(map(str, row)) for row in [*foreign.fetchall(), *unique.fetchall()])


def _replace(file: Path, target: Path) -> Path | None:
    """Copy the backup aside, keep the old database under another name, and rename the copy into its place."""
    fresh = target.with_name(".restored.db")
    sqlite.copy(file, fresh)
    with closing(sqlite3.connect(fresh)) as connection, connection:
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("DELETE FROM messages WHERE chat_id IN (SELECT id FROM chats WHERE session_id IS NOT NULL)")
        connection.execute("DELETE FROM chats WHERE session_id IS NOT NULL")  # no cascade: in an older schema long chats make it fail
        connection.execute("DELETE FROM sessions")
    kept = _kept(target) if target.exists() else None
    fresh.replace(target)
    return kept


def _kept(target: Path) -> Path:
    """Rename a database, which may be damaged, with what SQLite keeps beside it: its log never stands beside another database."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(target)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    kept = target.with_name(KEPT_NAME)
    for ending in ("-shm", "-wal", ""):
        old, new = (path.with_name(path.name + ending) for path in (target, kept))
        if old.exists():
            old.replace(new)
        else:
            new.unlink(missing_ok=True)
    return kept
