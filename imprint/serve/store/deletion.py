"""Ends sessions, and deletes very many chats without holding the database: some at a time, and between them others write."""

import time
from contextlib import suppress
from typing import Final

from sqlalchemy import ColumnElement, Connection, Table, and_, delete, func, select, update

from imprint.serve.store.database import Database, count_revocation
from imprint.serve.store.errors import StoreError
from imprint.serve.store.permission import permitted_by
from imprint.serve.store.tables import CHATS, SESSIONS

GUEST_OWNER: Final = "guest:"
ENDED_AT: Final = float("-inf")
"""When a guest's session that was ended was last used: longer ago than any clock says. It stays so until its chats are deleted."""

SECONDS_AT_ONCE: Final = 0.1
"""After so long in one transaction no further row is deleted in it; a chat of 2,000 messages takes some milliseconds."""
ROWS_AT_ONCE: Final = 100


def end_sessions(connection: Connection, *which: ColumnElement[bool]) -> int:
    """End sessions in a transaction; how many there were. After it call `remove_ended` with the same condition: guests have chats."""
    of_guest = SESSIONS.c.owner.startswith(GUEST_OWNER, autoescape=True)
    begun = (*which, of_guest, SESSIONS.c.seen_at != ENDED_AT)
    ended = connection.execute(update(SESSIONS).where(*begun).values(seen_at=ENDED_AT, created_at=ENDED_AT)).rowcount
    ended += connection.execute(delete(SESSIONS).where(*which, ~of_guest)).rowcount
    count_revocation(connection)
    return ended


def remove_ended(database: Database, *which: ColumnElement[bool]) -> None:
    """Have guests' sessions that were ended removed, with their chats: by whoever has undertaken it, else now."""
    if database.on_ended is None:
        remove_ended_now(database, *which)
    else:
        database.on_ended()


def remove_ended_now(database: Database, *which: ColumnElement[bool]) -> None:
    """Remove guests' sessions that were ended, with their chats, while others write. What cannot be removed now, goes by and by."""
    ended = (SESSIONS.c.seen_at == ENDED_AT, *which)
    with permitted_by(None), suppress(StoreError):  # it was decided by one who might
        delete_chats(database, CHATS.c.session_id.in_(select(SESSIONS.c.id).where(*ended)))
        _delete_rows(database, SESSIONS, and_(*ended))


def delete_chats(database: Database, condition: ColumnElement[bool]) -> int:
    """Delete the chats of this condition that are there now, with their messages; how many there were.

    It pauses as long as it works, and a process that ends before leaves the rest.
    """
    return _delete_rows(database, CHATS, condition)


def _delete_rows(database: Database, table: Table, condition: ColumnElement[bool]) -> int:
    """Delete the rows of this condition that are there now; how many there were."""
    with database.reading() as connection:
        last = connection.execute(select(func.max(table.c.id)).where(condition)).scalar()
    deleted = 0
    while last is not None:
        with database.writing() as connection:
            began = time.monotonic()
            rows = connection.execute(select(table.c.id).where(condition, table.c.id <= last).limit(ROWS_AT_ONCE)).scalars().all()
            for row in rows:
                deleted += connection.execute(delete(table).where(table.c.id == row)).rowcount
                if time.monotonic() - began > SECONDS_AT_ONCE:
                    break
        if not rows:
            break
        time.sleep(time.monotonic() - began)
    return deleted
