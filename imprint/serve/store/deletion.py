"""Deletes very many chats without holding the database: some at a time, and between them what others write has its turn."""

import time
from typing import Final

from sqlalchemy import ColumnElement, delete, func, select

from imprint.serve.store.database import Database
from imprint.serve.store.tables import CHATS

SECONDS_AT_ONCE: Final = 0.1
"""After so long in one transaction no further chat is deleted in it; one of 2,000 messages takes some milliseconds."""
CHATS_AT_ONCE: Final = 100


def delete_chats(database: Database, condition: ColumnElement[bool]) -> int:
    """Delete the chats of this condition that are there now, with their messages; how many there were.

    It pauses as long as it works, and a process that ends before leaves the rest.
    """
    with database.reading() as connection:
        last = connection.execute(select(func.max(CHATS.c.id)).where(condition)).scalar()
    deleted = 0
    while last is not None:
        with database.writing() as connection:
            began = time.monotonic()
            chats = connection.execute(select(CHATS.c.id).where(condition, CHATS.c.id <= last).limit(CHATS_AT_ONCE)).scalars().all()
            for chat in chats:
                deleted += connection.execute(delete(CHATS).where(CHATS.c.id == chat)).rowcount
                if time.monotonic() - began > SECONDS_AT_ONCE:
                    break
        if not chats:
            break
        time.sleep(time.monotonic() - began)
    return deleted
