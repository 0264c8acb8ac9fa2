"""What admins set for the whole service, and every process sees at once."""

from typing import Final, Literal, get_args

from sqlalchemy import Connection, delete, select

from imprint.serve.store.audit import record
from imprint.serve.store.database import Database, count_revocation
from imprint.serve.store.deletion import end_sessions, remove_ended
from imprint.serve.store.errors import invalid
from imprint.serve.store.principal import Actor
from imprint.serve.store.tables import ACCOUNTS, SESSIONS, SETTINGS

Guests = Literal["loopback", "everywhere", "off"]
GUESTS: Final = "guests"


class Settings:
    """Reads and changes the settings."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def guests(self) -> Guests:
        """Where guests are let in: only while the service listens on this machine alone, everywhere, or nowhere."""
        with self._database.reading() as connection:
            return guests_of(connection)

    def set_guests(self, value: str, actor: Actor) -> None:
        """Change where guests are let in; "off" ends their sessions. Raises StoreError for another word."""
        if value not in get_args(Guests):
            allowed = ", ".join(get_args(Guests))
            raise invalid(f"guests: must be one of {allowed}; got {value!r}.", f"guests 须为 {allowed} 之一，实际是 {value!r}。")
        of_guests = SESSIONS.c.account_id.in_(select(ACCOUNTS.c.id).where(ACCOUNTS.c.role == "guest"))
        with self._database.writing() as connection:
            connection.execute(delete(SETTINGS).where(SETTINGS.c.name == GUESTS))
            connection.execute(SETTINGS.insert().values(name=GUESTS, value=value))
            if value == "off":
                end_sessions(connection, of_guests)
            count_revocation(connection)
            record(connection, self._database.now(), "settings_changed", actor, detail=f"guests={value}")
        if value == "off":
            remove_ended(self._database, of_guests)


def guests_of(connection: Connection) -> Guests:
    """Where guests are let in."""
    value = connection.execute(select(SETTINGS.c.value).where(SETTINGS.c.name == GUESTS)).scalar()
    return value if value in get_args(Guests) else "loopback"  # type: ignore[return-value]
