"""The audit log: who did what to whom, never a secret."""

from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import ColumnElement, Connection, delete, func, select

from imprint.serve.store.database import Database
from imprint.serve.store.limits import Limits
from imprint.serve.store.principal import Actor
from imprint.serve.store.tables import AUDIT

Action = Literal[
    "login",
    "login_failed",
    "logout",
    "password_changed",
    "password_reset",
    "account_created",
    "account_changed",
    "account_disabled",
    "account_enabled",
    "account_deleted",
    "key_created",
    "key_revoked",
    "request_approved",
    "request_declined",
    "settings_changed",
    "sessions_ended",
    "backup",
    "restore",
]
OWN: Final[tuple[Action, ...]] = ("login", "logout", "password_changed", "key_created", "key_revoked")
"""What people do with their own account, as often as they like."""
MAX_DETAIL = 500


@dataclass(frozen=True)
class AuditEntry:
    """One line of the audit log."""

    id: int
    """Its number; later ones are larger."""
    at: float
    """When, in seconds since 1970."""
    actor: str
    """Who did it."""
    address: str | None
    """From where."""
    action: str
    """What was done, one of `Action`."""
    subject: str
    """To whom: the name of an account."""
    detail: str
    """What else there is to say."""


class Audit:
    """Reads the audit log."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits

    def add(self, action: Action, actor: Actor, subject: str = "", detail: str = "") -> None:
        """Write an entry in a transaction of its own."""
        with self._database.writing() as connection:
            record(connection, self._database.now(), action, actor, subject, detail)

    def list(self, *, before: int | None = None, limit: int = 100) -> tuple[AuditEntry, ...]:
        """The newest entries first; `before`: only those with a smaller number."""
        query = select(AUDIT).order_by(AUDIT.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(AUDIT.c.id < before)
        with self._database.reading() as connection:
            return tuple(AuditEntry(*row) for row in connection.execute(query))

    def tidy(self, connection: Connection) -> None:
        """Remove the oldest entries, so that neither failed logins nor what one account does to itself pushes anything else out."""
        most, failed, own = self._limits.audit_entries, AUDIT.c.action == "login_failed", AUDIT.c.action.in_(OWN)
        busy = select(AUDIT.c.actor).where(own).group_by(AUDIT.c.actor).having(func.count() > most // 20)
        for actor in connection.execute(busy).scalars().all():
            _keep_newest(connection, own & (AUDIT.c.actor == actor), most // 20)
        _keep_newest(connection, failed, most // 5)
        _keep_newest(connection, own, 2 * most // 5)
        _keep_newest(connection, ~failed & ~own, most)


def _keep_newest(connection: Connection, kind: ColumnElement[bool], most: int) -> None:
    """Remove the oldest entries of a kind beyond so many."""
    oldest = connection.execute(select(AUDIT.c.id).where(kind).order_by(AUDIT.c.id.desc()).offset(most).limit(1)).scalar()
    if oldest is not None:
        connection.execute(delete(AUDIT).where(kind, AUDIT.c.id <= oldest))


def record(connection: Connection, now: float, action: Action, actor: Actor, subject: str = "", detail: str = "") -> None:
    """Write an entry in the transaction of what it tells, so that neither is there without the other."""
    connection.execute(
        AUDIT.insert().values(at=now, actor=actor.name, address=actor.address, action=action, subject=subject, detail=detail[:MAX_DETAIL])
    )
