"""The database: transactions for many threads, beside other processes, and errors that say what is wrong with the file."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, UpdateBase, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from imprint.files.disk_errors import refuse_unwritable, translate_disk_errors
from imprint.messages import Bilingual
from imprint.serve.store import sqlite
from imprint.serve.store.errors import StoreError, invalid
from imprint.serve.store.long_readings import LongReadings
from imprint.serve.store.permission import permission_to_ask
from imprint.serve.store.private_folder import make_private
from imprint.serve.store.schema import migrate, newest_revision, refuse_unknown_schema, revision_of
from imprint.serve.store.tables import COUNTERS

FILE_NAME: Final = "service.db"
OWN_BEGINNING: Final = "service."
"""How the names of the files begin that a service has open: the database, what SQLite keeps beside it, and the lock."""
KEPT_NAME: Final = "before-restore.db"
"""The database that a restore has replaced, beside the new one."""
BUSY_SECONDS: Final = 5.0
"""How long a transaction waits for another process that writes."""
SHORTEN_SECONDS: Final = 3.0
"""How long emptying the log waits for a moment at which nobody reads: a second more than a search takes at most."""
SHORTEN_PAUSE_SECONDS: Final = 0.02
REVOCATIONS: Final = "revocations"
"""The counter of everything that ends or narrows what somebody may do."""


@dataclass(frozen=True)
class Outcome:
    """What became of one of several calls."""

    value: Any = None
    """What it returned."""
    error: Exception | None = None
    """What it raised, if it did."""


class Shared(threading.local):
    """The transaction that the calls of a thread share, while they do."""

    connection: Connection | None = None
    writes = False
    """Whether it may write."""
    has_failed = False
    """Whether the database has failed in it."""
    touches: Sequence[UpdateBase] = ()
    """Updates that wait for its end, if it does not write itself."""


class Database:
    """A database in a folder of its own; all its functions may be called from any thread."""

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time, busy_seconds: float = BUSY_SECONDS) -> None:
        """Open the database of a folder; make both where they are missing, and bring an older schema up to date.

        `now` tells the seconds since 1970. Raises UserError for a folder that cannot be written, and StoreError for one that others
        may write, for a database of another program or of a newer one, and where a restore was stopped before it had made one.
        """
        self.file = folder / FILE_NAME
        self.now = now
        self._busy_seconds = busy_seconds
        self._writer = threading.Lock()
        self._shared = Shared()
        self._long_readings = LongReadings()
        self.on_write: Callable[[float], None] = lambda _seconds: None
        """Called with the seconds that a transaction has had the right to write."""
        self.on_ended: Callable[[], None] | None = None
        """Called where guests' sessions were ended, and undertakes to have them removed; None: whoever ends them removes them."""
        refuse_unwritable(folder)
        refuse_half_restored(folder)
        with translate_disk_errors(folder):
            make_private(folder, FILE_NAME)
            self._engine = sqlite.connect(self.file, busy_seconds)
            self._nowait_engine = sqlite.connect(self.file, 0.0)  # it waits for no lock
        self._identity: tuple[int, int] | None = None
        try:
            self._bring_up_to_date()
        except BaseException:
            self._dispose()
            raise

    def _bring_up_to_date(self) -> None:
        self._identity = self._found()
        with self.reading() as connection:
            if not sqlite.is_ours(connection):
                raise StoreError(
                    "unavailable",
                    Bilingual(
                        f"{self.file}: is a database of another program. Choose another folder: data=FOLDER.",
                        f"{self.file}：是别的程序的数据库，请另选目录：data=FOLDER。",
                    ),
                )
            present = revision_of(connection)
            refuse_unknown_schema(present, self.file)
        if present == newest_revision():
            return
        if present is not None:
            sqlite.copy(self.file, self.file.with_name(f"before-{newest_revision()}.db"))
        with self.writing() as connection:
            sqlite.mark_as_ours(connection)
            migrate(connection, self.file)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees the database as it is at one moment. Raises what the permission of a request does that waited long."""
        if self._shared.connection is not None:
            with self._mark_failure():
                yield self._shared.connection
            return
        with self._translated(), self._engine.connect() as connection, connection.begin():
            self._demand_permission(connection, writes=False)
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A connection whose changes are kept together if the block ends well, and not at all otherwise.

        Raises what the permission of a request does whose right has ended: nobody can end it between this and the changes.
        """
        if self._shared.connection is not None and self._shared.writes:
            with self._mark_failure(), self._shared.connection.begin_nested():  # a call that is refused takes back its own changes alone
                yield self._shared.connection
            return
        if not self._writer.acquire(timeout=2 * self._busy_seconds):
            raise StoreError(
                "busy",
                Bilingual("the database is busy. Try again in a moment.", "数据库繁忙，请稍后再试。"),
                retry_after=2.0,
            )
        began = None
        try:
            options = {sqlite.WRITES: True}
            with self._translated(), self._engine.connect().execution_options(**options) as connection, connection.begin():
                began = time.monotonic()  # the right to write is there
                self._demand_permission(connection, writes=True)
                yield connection
        finally:
            self._writer.release()
            if began is not None:
                self.on_write(time.monotonic() - began)

    def _demand_permission(self, connection: Connection, *, writes: bool) -> None:
        """Ask in a transaction that begins whether what it is for is still permitted; what asks, reads in it."""
        if (permission := permission_to_ask(writes=writes)) is not None:
            with self._sharing(connection, writes=writes):
                permission.demand()

    def batch(self, calls: Sequence[Callable[[], Any]], *, writes: bool) -> list[Outcome]:
        """Make calls one after the other in one transaction, which costs much less than one for each; no error is raised.

        When this returns, all is kept but the changes of calls that raised. Where the database fails, nothing of the transaction is kept,
        and each call is made again in one of its own.
        """
        try:
            with self.writing() if writes else self.reading() as connection, self._sharing(connection, writes=writes):
                found = [outcome_of(call) for call in calls]
                if self._shared.has_failed:
                    raise _SharedFailureError
        except _SharedFailureError:
            return [outcome_of(call) for call in calls]
        except Exception as error:
            return [Outcome(error=error) for _ in calls]
        self._touch(self._shared.touches)
        return found

    def touch(self, statement: UpdateBase) -> None:
        """Update a last-used time; skipped while another write runs, deferred until a shared transaction ends."""
        if self._shared.connection is not None and not self._shared.writes:
            self._shared.touches = (*self._shared.touches, statement)
        else:
            self._touch([statement])

    def _touch(self, statements: Sequence[UpdateBase]) -> None:
        if not statements or not self._writer.acquire(blocking=False):
            return
        try:
            options = {sqlite.WRITES: True}
            with (
                suppress(StoreError),  # on a full disk people can still read
                self._translated(),
                self._nowait_engine.connect().execution_options(**options) as connection,
                connection.begin(),
            ):
                for statement in statements:
                    connection.execute(statement)
        finally:
            self._writer.release()

    @contextmanager
    def _mark_failure(self) -> Iterator[None]:
        """A part of a shared transaction: an error of the database in it fails the whole transaction."""
        with self._translated():
            try:
                yield
            except DBAPIError:
                self._shared.has_failed = True
                raise

    @contextmanager
    def _sharing(self, connection: Connection, *, writes: bool) -> Iterator[None]:
        shared = self._shared
        shared.connection, shared.writes, shared.has_failed, shared.touches = connection, writes, False, ()
        try:
            yield
        finally:
            shared.connection = None

    @contextmanager
    def reading_within(self, seconds: float, timeout_message: Bilingual) -> Iterator[Connection]:
        """A connection that reads for so many seconds at most; then StoreError "invalid" is raised with the message."""
        with self._long_readings.one(), self.reading() as connection:
            until = time.monotonic() + seconds
            with sqlite.stopped_after(connection, until):
                try:
                    yield connection
                except DBAPIError as error:
                    if time.monotonic() >= until:
                        raise StoreError("invalid", timeout_message) from error
                    raise

    def revocations(self) -> int:
        """A number that grows whenever what somebody may do ends or shrinks, by whichever process."""
        with self.reading() as connection:
            return connection.execute(select(COUNTERS.c.value).where(COUNTERS.c.name == REVOCATIONS)).scalar() or 0

    def backup(self, file: Path) -> None:
        """Write a copy of the database as it is now to one file; the service may go on meanwhile."""
        self._refuse_if_gone()
        if file.name.startswith(OWN_BEGINNING) and file.parent.resolve() == self.file.parent.resolve():
            raise invalid(
                f"{file}: is the database itself, or belongs to it. Give another name.", f"{file}：是数据库本身或其附属文件，请换一个名字。"
            )
        with translate_disk_errors(file):
            sqlite.copy(self.file, file)

    def bytes_on_disk(self) -> int:
        """How large the database is, with the log beside it: no copy of it is larger."""
        log = self.file.with_name(f"{self.file.name}-wal")
        return sum(file.stat().st_size for file in (self.file, log) if file.exists())

    def log_bytes(self) -> int:
        """The size of the log beside the database."""
        try:
            return self.file.with_name(f"{FILE_NAME}-wal").stat().st_size
        except OSError:
            return 0

    def shorten_log(self) -> None:
        """Empty the log beside the database as soon as nobody uses it, for which long readings are held up; or not, after some seconds."""
        until = time.monotonic() + SHORTEN_SECONDS
        with self._long_readings.held_up(SHORTEN_SECONDS):
            while not self._has_shortened_log() and time.monotonic() < until:
                time.sleep(SHORTEN_PAUSE_SECONDS)

    def _has_shortened_log(self) -> bool:
        """Whether the log could be emptied at this moment."""
        if not self._writer.acquire(blocking=False):
            return False
        try:
            with self._translated():
                return sqlite.shorten_log(self._nowait_engine)
        finally:
            self._writer.release()

    def close(self) -> None:
        """Close all connections."""
        self._dispose()

    def _dispose(self) -> None:
        self._engine.dispose()
        self._nowait_engine.dispose()

    def _found(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.file)  # noqa: PTH116 - a microsecond, in every transaction
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _refuse_if_gone(self) -> None:
        """Raise StoreError if the file was deleted or replaced: what were written into the old one would be lost without a word."""
        if self._found() != self._identity:
            raise StoreError(
                "unavailable",
                Bilingual(
                    f"{self.file}: was deleted or replaced while it was in use. Restore a backup with `imprint user restore FILE` if it "
                    "is gone, then start the service again.",
                    f"{self.file}：在使用中被删除或替换。若已丢失，请用 `imprint user restore FILE` 恢复备份，然后重新启动服务。",
                ),
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        self._refuse_if_gone()
        try:
            yield
        except PoolTimeoutError as error:
            raise StoreError(
                "busy",
                Bilingual("the database has too many users at once. Try again in a moment.", "同时使用数据库的请求过多，请稍后再试。"),
                retry_after=2.0,
            ) from error
        except UnicodeEncodeError as error:
            raise invalid(
                "a text has half of a surrogate pair, which no text has. Remove it.", "文本含有不完整的代理对，请删除。"
            ) from error
        except DBAPIError as error:
            store_error = sqlite.error_of(error.orig, self.file)
            if store_error is None:
                raise
            raise store_error from error


class _SharedFailureError(Exception):
    """Undoes a shared transaction."""


def refuse_half_restored(folder: Path) -> None:
    """Raise StoreError where a restore has put the old database aside, and was stopped before the new one stood in its place."""
    if (folder / KEPT_NAME).exists() and not (folder / FILE_NAME).exists():
        raise StoreError(
            "unavailable",
            Bilingual(
                f"{folder}: a restore was stopped before its end: there is {KEPT_NAME}, the database of before, but no {FILE_NAME}. "
                f"Restore the backup again (imprint user restore), or rename {KEPT_NAME} to {FILE_NAME}; to begin anew, move it away.",
                f"{folder}：上次恢复中途停止：有先前的数据库 {KEPT_NAME}，但没有 {FILE_NAME}。请再恢复一次备份（imprint user restore），"
                f"或把 {KEPT_NAME} 改名为 {FILE_NAME}；要从空库开始，请把它移到别处。",
            ),
        )


def outcome_of(call: Callable[[], Any]) -> Outcome:
    """What becomes of a call."""
    try:
        return Outcome(call())
    except Exception as error:
        return Outcome(error=error)


def count_revocation(connection: Connection) -> None:
    """Note in this transaction that what somebody may do has ended or shrunk."""
    connection.execute(update(COUNTERS).where(COUNTERS.c.name == REVOCATIONS).values(value=COUNTERS.c.value + 1))
