"""The store of the service: everything that is kept, behind one value."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from sqlalchemy import Connection

from imprint.files.held import lock
from imprint.messages import Bilingual, UserError
from imprint.serve.store.accounts import Accounts
from imprint.serve.store.audit import Audit
from imprint.serve.store.backups import Backups
from imprint.serve.store.chat_export import ChatExport
from imprint.serve.store.chat_import import ChatImport
from imprint.serve.store.chats import Chats
from imprint.serve.store.database import BUSY_SECONDS, Database, Outcome
from imprint.serve.store.deletion import remove_ended_now
from imprint.serve.store.errors import StoreError
from imprint.serve.store.keys import Keys
from imprint.serve.store.limits import Limits
from imprint.serve.store.passwords import Hashing, Passwords
from imprint.serve.store.principal import Principal
from imprint.serve.store.questions import Questions
from imprint.serve.store.quota import Quota
from imprint.serve.store.requests import Requests
from imprint.serve.store.sessions import Sessions
from imprint.serve.store.settings import Settings

LOCK_NAME: Final = "service.lock"
REMOVED_AT_ONCE: Final = 100
"""Sessions that have ended, in one transaction."""


class Store:
    """Accounts, sessions, keys, quotas and chats in a folder. All functions wait for the disk: call them from threads.

    Each may raise `StoreError`, whose kind says what a route should answer.
    """

    def __init__(self, folder: Path, database: Database, passwords: Passwords, limits: Limits) -> None:
        """Use `Store.open`."""
        self.folder = folder
        self.audit = Audit(database, limits)
        self.accounts = Accounts(database, passwords, limits)
        self.sessions = Sessions(database, passwords, limits)
        self.keys = Keys(database, limits)
        self.requests = Requests(database, self.accounts, limits)
        self.quota = Quota(database, limits)
        self.settings = Settings(database)
        self.backups = Backups(folder, database)
        self.chats = Chats(database, limits)
        self.questions = Questions(database, self.chats, limits)
        self.chat_export = ChatExport(self.chats)
        self.chat_import = ChatImport(database, self.chats, limits)
        self.first_password: str | None = None
        """The one-time password of the account "admin", if this call of `open` has made it; nothing shows it again."""
        self._database = database
        self._passwords = passwords
        self._held: int | None = None

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        limits: Limits | None = None,
        hashing: Hashing | None = None,
        now: Callable[[], float] = time.time,
        busy_seconds: float = BUSY_SECONDS,
    ) -> "Store":
        """Open the store of a folder; where nothing is there yet, make it with the accounts "admin" and "guest".

        An older schema is brought up to date, after a copy of the database was written beside it. Raises UserError for a folder that
        cannot be written, and StoreError for a database of a newer program or of another one.
        """
        database = Database(folder, now=now, busy_seconds=busy_seconds)
        passwords = Passwords(hashing or Hashing())
        store = cls(folder, database, passwords, limits or Limits())
        try:
            store.first_password = store.accounts.seed()
        except BaseException:
            store.close()
            raise
        return store

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def start_serving(self) -> None:
        """Begin as the one service of this folder: what an earlier one was writing is marked as interrupted, its reservations end.

        Raises UserError if another service runs in the folder.
        """
        self._held = hold_folder(self.folder)
        with self._database.writing() as connection:
            self.chats.interrupt_all(connection)
            self.quota.free_reservations(connection)
        self.tidy()

    def observe_writes(self, observe: Callable[[float], None]) -> None:
        """Let a function be called with the seconds of each transaction that writes."""
        self._database.on_write = observe

    @contextmanager
    def leaving_removal(self, tell: Callable[[], None]) -> Iterator[None]:
        """Let nobody who ends guests' sessions wait until they are removed: `tell` is called, from any thread, and then `remove_ended`."""
        self._database.on_ended = tell
        try:
            yield
        finally:
            self._database.on_ended = None

    def remove_ended(self) -> None:
        """Remove guests' sessions that were ended, with their chats; what cannot be removed now, goes when it is tidied."""
        remove_ended_now(self._database)

    def tidy(self) -> None:
        """Remove what has expired: sessions with the chats of guests, old usage, requests and entries of the audit log.

        What cannot be removed is logged and stays; the rest goes. Raises StoreError where the database cannot be written at all.
        """
        self.sessions.delete_ended_chats()
        calls = [partial(self.sessions.remove, row) for row in self.sessions.ended()]
        calls += [partial(self._tidy, part) for part in (self.quota.tidy, self.requests.tidy, self.audit.tidy)]
        for begin in range(0, len(calls), REMOVED_AT_ONCE):
            for outcome in self.batch(calls[begin : begin + REMOVED_AT_ONCE], writes=True):
                if isinstance(outcome.error, StoreError):
                    raise outcome.error
                if outcome.error is not None:
                    logging.getLogger(__name__).error("something that has expired cannot be removed", exc_info=outcome.error)
        self.shorten_log()

    def log_bytes(self) -> int:
        """The size of the database's log, which `shorten_log` empties."""
        return self._database.log_bytes()

    def shorten_log(self) -> None:
        """Empty the database's log, which takes some seconds where others read; searches wait for it."""
        self._database.shorten_log()

    def _tidy(self, part: Callable[[Connection], None]) -> None:
        with self._database.writing() as connection:
            part(connection)

    def revocations(self) -> int:
        """A number that grows when anybody's session, key, rights or account ends or shrinks, by whichever process: then ask `is_valid`."""
        return self._database.revocations()

    def has_expired(self, principal: Principal) -> bool:
        """Whether a session or key has ended by the clock alone, which `revocations` does not tell; it reads nothing."""
        return principal.expires_at is not None and self._database.now() >= principal.expires_at

    def is_valid(self, principal: Principal) -> bool:
        """Whether somebody may still do all that this principal says."""
        if principal.session_id is not None:
            now = self.sessions.by_id(principal.session_id)
        else:
            now = None if principal.key_id is None else self.keys.by_id(principal.key_id)
        if now is None or now.role != principal.role:
            return False
        return now.models is None or (principal.models is not None and principal.models <= now.models)

    def batch(self, calls: Sequence[Callable[[], Any]], *, writes: bool) -> list[Outcome]:
        """Make calls of this store one after the other in one transaction, which costs much less than one for each; none raises.

        All is kept when this returns. Where one of them fails in the database, nothing is kept of any, and each is made by itself.
        """
        return self._database.batch(calls, writes=writes)

    def backup(self, file: Path) -> None:
        """Write a copy of everything to one file, also while the service runs. Raises UserError for what cannot be written."""
        self._database.backup(file)

    def close(self) -> None:
        """Close the database and end the threads."""
        self._passwords.close()
        self._database.close()
        if self._held is not None:
            os.close(self._held)
            self._held = None


def hold_folder(folder: Path) -> int:
    """Hold a folder for one service, until the handle is closed or the process ends. Raises UserError if another one has it."""
    handle = os.open(folder / LOCK_NAME, os.O_CREAT | os.O_RDWR, 0o600)
    if lock(handle):
        return handle
    os.close(handle)
    raise UserError(
        Bilingual(
            f"{folder}: another service uses this folder. Stop it first, or choose another one: data=FOLDER.",
            f"{folder}：已有一个服务在使用此目录。请先停止它，或另选目录：data=FOLDER。",
        )
    )
