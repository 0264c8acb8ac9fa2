"""What is SQLite's own: how a connection is opened, copies of the database while it is in use, and what its errors mean."""

import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, event

from imprint.files.atomic import atomic_file
from imprint.files.disk_errors import NO_SPACE, NOT_PERMITTED
from imprint.files.held import PRIVATE_MODE
from imprint.messages import Bilingual
from imprint.serve.store.errors import StoreError
from imprint.serve.store.search import has_word

APPLICATION: Final = 1229803634
"""The `application_id` of our databases: "IMPr" in ASCII."""
WRITES: Final = "imprint_writes"
"""The execution option of a connection that will write: its transaction takes the lock at its beginning, so that it never has to fail
for having read before."""
STEPS: Final = 100
"""SQLite VM instructions between clock checks."""
OPEN_SECONDS: Final = 20.0
"""Most seconds to read which tables a file has: pages that name one page again and again make of a small file a list of years."""
READERS: Final = 16
"""Connections that stay open; more are opened and closed when they are needed."""
MOST_CONNECTIONS: Final = 64
LOG: Final = "PRAGMA journal_mode = WAL"
PRAGMAS: Final = (
    "PRAGMA synchronous = NORMAL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA secure_delete = ON",
    "PRAGMA trusted_schema = OFF",
)
MARK: Final = "PRAGMA application_id = 1229803634"


def connect(file: Path, busy_seconds: float) -> Engine:
    """An engine on a database file, which is made if it is missing, for its owner alone."""
    handle = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)  # the log and the shared memory beside it take its permissions
    try:
        if os.name != "nt" and os.fstat(handle).st_mode & 0o077:  # it was copied here
            os.fchmod(handle, 0o600)
    finally:
        os.close(handle)
    engine = create_engine(
        URL.create("sqlite", database=str(file.absolute())),
        pool_size=READERS,
        max_overflow=MOST_CONNECTIONS - READERS,
        pool_timeout=10,
        connect_args={"timeout": busy_seconds},
    )

    def opened(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # the module would begin transactions late, and not before reading
        _begin_log(connection, busy_seconds)
        for pragma in PRAGMAS:
            connection.execute(pragma)
        connection.create_function("has_word", 2, has_word, deterministic=True)

    def began(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get(WRITES) else "BEGIN")

    event.listen(engine, "connect", opened)
    event.listen(engine, "begin", began)
    return engine


def _begin_log(connection: sqlite3.Connection, busy_seconds: float) -> None:
    """Write to a log beside the file. SQLite waits for no lock where a new file gets its log, and another first start may have one."""
    until = time.monotonic() + busy_seconds
    while True:
        try:
            connection.execute(LOG)
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= until:
                raise
            time.sleep(0.01)


@contextmanager
def stopped_after(connection: Connection, until: float) -> Iterator[None]:
    """Stop what a connection computes at a time of the monotonic clock, by an error."""
    ours = connection.connection.driver_connection
    assert isinstance(ours, sqlite3.Connection)
    ours.set_progress_handler(lambda: time.monotonic() >= until, STEPS)
    try:
        yield
    finally:
        ours.set_progress_handler(None, 0)


def mark_as_ours(connection: Connection) -> None:
    """Write into the file that it is a database of this service."""
    connection.exec_driver_sql(MARK)


def is_ours(connection: Connection) -> bool:
    """Whether the file is a database of this service, or empty."""
    tables = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()
    return bool(tables == 0 or connection.exec_driver_sql("PRAGMA application_id").scalar_one() == APPLICATION)


def copy(source: Path, target: Path) -> None:
    """Copy a database as it is at one moment, also while it is written, and check the copy; `target` is there only if it is whole.

    The copy has what the tables have and nothing else: free pages, in which something that was deleted may still stand, stay behind.
    """
    with atomic_file(target, mode=PRIVATE_MODE) as temporary:
        try:
            with closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as read:
                read.execute("VACUUM INTO CAST(? AS TEXT)", (os.fsencode(temporary.absolute()),))  # it reads in one transaction
        except sqlite3.Error as error:
            is_damaged = getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))
            raise error_of(error, source if is_damaged else target) or error from error
        check(temporary)


def shorten_log(engine: Engine) -> bool:
    """Move what the log has into the database, and empty it: deleted texts may stand in both. False while somebody else uses them.

    What the disk has against it is logged: nothing depends on it now, and it is tried again later.
    """
    connection = engine.raw_connection()  # no transaction
    try:
        is_busy, *_ = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not is_busy
    except sqlite3.Error:
        logging.getLogger(__name__).exception("the log of the database cannot be moved into it")
        return True
    finally:
        connection.close()


def check(file: Path) -> None:
    """Raise StoreError unless a file is a whole database of this service."""
    with reading(file) as connection:
        try:
            problem = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
        except sqlite3.Error as error:
            problem = str(error)
    if problem != "ok":
        raise _damaged(file, problem)


@contextmanager
def reading(file: Path) -> Iterator[sqlite3.Connection]:
    """A connection that writes nothing. Raises StoreError unless the file can be opened and is marked as a database of this service."""
    try:
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
    except sqlite3.Error as error:
        raise _damaged(file, str(error)) from error
    with closing(connection):
        until = time.monotonic() + OPEN_SECONDS
        connection.set_progress_handler(lambda: time.monotonic() >= until, STEPS)
        try:
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            raise _damaged(file, "its list of tables takes too long" if time.monotonic() >= until else str(error)) from error
        connection.set_progress_handler(None, 0)
        if application != APPLICATION:
            raise no_database(file, Bilingual("of another program", "属于别的程序"))
        yield connection


def _damaged(file: Path, problem: str) -> StoreError:
    return no_database(file, Bilingual(f"damaged ({problem})", f"已损坏（{problem}）"))


def no_database(file: Path, why: Bilingual) -> StoreError:
    """The error for a file that is no database of this service."""
    return StoreError(
        "unavailable",
        Bilingual(
            f"{file}: this is no database of the service, or it is {why.english}. Give a file that `imprint user backup` has written.",
            f"{file}：不是本服务的数据库，或{why.chinese}。请给出 `imprint user backup` 写出的文件。",
        ),
    )


def held_by_another() -> StoreError:
    """The error where another process reads or writes the database for longer than is waited for."""
    return StoreError(
        "busy",
        Bilingual("another program holds the database. Try again in a moment.", "数据库正被其他程序占用，请稍后再试。"),
        retry_after=2.0,
    )


def error_of(error: BaseException | None, file: Path) -> StoreError | None:
    """What an error of the database means to a user; None for our own mistakes."""
    name = getattr(error, "sqlite_errorname", "") if isinstance(error, sqlite3.Error) else ""
    kind = "_".join(name.split("_")[:2])
    if kind in ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL"):
        return held_by_another()
    reasons = {
        "SQLITE_FULL": NO_SPACE,
        "SQLITE_READONLY": NOT_PERMITTED,
        "SQLITE_PERM": NOT_PERMITTED,
        "SQLITE_CANTOPEN": Bilingual("it cannot be opened. Check the folder and its permissions", "无法打开：请检查目录及其权限"),
        "SQLITE_IOERR": Bilingual("the disk reports an error. Check it", "磁盘报告错误：请检查磁盘"),
        "SQLITE_CORRUPT": Bilingual(
            "it is damaged. Restore a backup with `imprint user restore FILE`", "已损坏：请用 `imprint user restore FILE` 恢复备份"
        ),
        "SQLITE_NOTADB": Bilingual(
            "this is no database. Move it away, or restore a backup with `imprint user restore FILE`",
            "不是数据库：请移走它，或用 `imprint user restore FILE` 恢复备份",
        ),
    }
    if kind not in reasons:
        return None
    why = reasons[kind]
    return StoreError("unavailable", Bilingual(f"{file}: the database: {why.english}.", f"{file}：数据库{why.chinese}。"))
