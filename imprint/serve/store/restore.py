"""Puts a backup in the place of the database."""

import os
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from sqlalchemy import column, create_engine, insert, select, table

from imprint.files.atomic import atomic_file
from imprint.files.disk_errors import translate_disk_errors
from imprint.files.held import PRIVATE_MODE
from imprint.messages import Bilingual
from imprint.serve.store import sqlite
from imprint.serve.store.database import FILE_NAME, KEPT_NAME
from imprint.serve.store.errors import StoreError
from imprint.serve.store.private_folder import make_private
from imprint.serve.store.rows import MAX_NUMBER, refuse_wrong_rows
from imprint.serve.store.schema import migrate, refuse_unknown_schema
from imprint.serve.store.store import hold_folder

SEQUENCES: Final = "sqlite_sequence"
"""SQLite's table of the largest ids that there were."""
OBJECTS: Final = """
    SELECT type, name, sql FROM sqlite_master
    WHERE sql IS NOT NULL AND (type, name) NOT IN (VALUES ('table', 'sqlite_stat1'), ('table', 'sqlite_stat4'))
    ORDER BY type = 'index'
"""
"""All of a schema, tables first, but for what SQLite adds: the indexes of keys, and figures about indexes. A trigger, too, may be called
sqlite_something in a file that was written by hand."""
KEEP_SEQUENCES: Final = """
    UPDATE main.sqlite_sequence SET seq = max(seq, coalesce((SELECT max(old.seq) FROM backup.sqlite_sequence old
    WHERE old.name = sqlite_sequence.name AND typeof(old.seq) = 'integer' AND old.seq <= ?), 0))
"""
"""Keep the largest ids that there were, so that no id of a deleted account becomes another's."""
OTHER_TABLES: Final = Bilingual("one with other tables", "表结构不符")


def restore(file: Path, folder: Path) -> Path | None:
    """Replace the database of a folder by a backup, which is checked first; where the old one is kept, if there was one.

    All sessions end, so that none comes back that was ended since. Raises UserError while a service runs in the folder, and StoreError
    while another program holds the database, and for a file that is no backup, is damaged, holds what the service never writes, or was
    written by a newer program.
    """
    if not file.is_file():
        raise StoreError("not_found", Bilingual(f"{file}: there is no such file.", f"{file}：没有这个文件。"))
    with sqlite.reading(file) as connection:
        schema = _check_tables(connection, file)  # first, as the next check computes what an index computes, without a bound
        sqlite.check(file)
        refuse_wrong_rows(connection, file)
    with translate_disk_errors(folder):
        make_private(folder, FILE_NAME)
        held = hold_folder(folder)
        try:
            return _replace(file, folder / FILE_NAME, schema)
        finally:
            os.close(held)


def _check_tables(connection: sqlite3.Connection, file: Path) -> tuple[str, ...]:
    """The statements that make the tables of a file's version.

    Raises StoreError unless it has these, and nothing that would act by itself, such as a trigger or a column that is computed.
    """
    found, versions = {}, []
    schema: tuple[str, ...] = ()
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
            schema = tuple(sql for _, name, sql in ours.execute(OBJECTS) if name != SEQUENCES)
        engine.dispose()
    if not is_known:
        raise sqlite.no_database(file, OTHER_TABLES)
    return schema


def _columns(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """Tables with their columns, and to which rows these refer; indexes; also views, triggers and computed columns, which we have not."""
    columns = "SELECT iif(hidden, 'computed ', '') || name FROM pragma_table_xinfo(?)"
    return {
        name: [kind, *(row[0] for row in connection.execute(columns, (name,))), *_keys(connection, name)] if kind == "table" else [kind]
        for kind, name, _ in connection.execute(OBJECTS).fetchall()
    }


def _keys(connection: sqlite3.Connection, table: str) -> list[str]:
    """The foreign keys of a table, which columns are unique together, and its indexes that compute something."""
    foreign = connection.execute('SELECT "from", "table", coalesce("to", \'id\'), on_delete FROM pragma_foreign_key_list(?)', (table,))
    unique = connection.execute(
        "SELECT group_concat(found.name) FROM pragma_index_list(?) list, pragma_index_info(list.name) found "
        'WHERE list."unique" AND NOT list.partial GROUP BY list.name',
        (table,),
    )
    computed = connection.execute(
        "SELECT DISTINCT list.name FROM pragma_index_list(?) list, pragma_index_xinfo(list.name) found "
        "WHERE list.partial OR found.cid = -2",
        (table,),
    )
    return sorted(" ".join(map(str, row)) for row in [*foreign.fetchall(), *unique.fetchall(), *computed.fetchall()])


def _replace(file: Path, target: Path, schema: Sequence[str]) -> Path | None:
    """Copy the backup aside, keep the old database under another name, and rename the copy into its place."""
    fresh = target.with_name(".restored.db")
    _copy_rows(file, fresh, schema)
    with closing(sqlite3.connect(fresh)) as connection, connection:
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("DELETE FROM messages WHERE chat_id IN (SELECT id FROM chats WHERE session_id IS NOT NULL)")
        connection.execute("DELETE FROM chats WHERE session_id IS NOT NULL")  # no cascade: in an older schema long chats make it fail
        connection.execute("DELETE FROM sessions")
    kept = target.with_name(KEPT_NAME)
    if target.exists():
        try:
            _keep(target, kept)
        except StoreError:
            fresh.unlink()
            raise
    for ending in ("-shm", "-wal"):  # of a database that was deleted: what its log has would be written into the new one
        target.with_name(target.name + ending).unlink(missing_ok=True)
    fresh.replace(target)
    return kept if kept.exists() else None


def _copy_rows(file: Path, fresh: Path, schema: Sequence[str]) -> None:
    """Copy the rows of a backup into new tables of ours: nothing else of it comes along, such as a default, or a rule of its tables."""
    with atomic_file(fresh, mode=PRIVATE_MODE) as temporary:
        try:
            with closing(sqlite3.connect(temporary.absolute(), isolation_level=None, uri=True)) as connection:
                connection.execute(sqlite.MARK)
                connection.execute("ATTACH ? AS backup", (f"{file.absolute().as_uri()}?mode=ro",))
                connection.execute("BEGIN")
                for statement in schema:
                    connection.execute(statement)
                for kind, name, _ in connection.execute(OBJECTS).fetchall():
                    if kind == "table" and name != SEQUENCES:
                        connection.execute(_insertion(connection, name))
                connection.execute(KEEP_SEQUENCES, (MAX_NUMBER,))
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise sqlite.error_of(error, fresh) or sqlite.no_database(file, OTHER_TABLES) from error
        sqlite.check(temporary)


def _insertion(connection: sqlite3.Connection, name: str) -> str:
    """The statement that copies the rows of a table of the backup."""
    names = [one for (one,) in connection.execute("SELECT name FROM pragma_table_info(?)", (name,))]
    ours, theirs = (table(name, *map(column, names), schema=schema) for schema in ("main", "backup"))
    return str(insert(ours).from_select(names, select(*theirs.columns)))


def _keep(target: Path, kept: Path) -> None:
    """Rename a database, which may be damaged, with what SQLite keeps beside it: its log never stands beside another database.

    Raises StoreError while another program reads in the log: a kill between two renames would part the database from it.
    """
    try:
        with closing(sqlite3.connect(target)) as connection:
            is_busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        found = sqlite.error_of(error, target)
        is_busy = found is not None and found.kind == "busy"
    if is_busy:
        raise sqlite.held_by_another()
    for ending in ("-shm", "-wal", ""):
        old, new = (path.with_name(path.name + ending) for path in (target, kept))
        if old.exists():
            old.replace(new)
        else:
            new.unlink(missing_ok=True)
