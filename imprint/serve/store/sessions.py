"""Sessions of browsers: signing in and out, and who a token belongs to. Tokens are 256 random bits, of which only a hash is kept."""

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, delete, func, or_, select, update

from imprint.messages import Bilingual
from imprint.serve.store.accounts import find_account, models_of
from imprint.serve.store.addresses import ADDRESSES_A_SITE, visitor_address, visitor_network
from imprint.serve.store.audit import record
from imprint.serve.store.database import Database, count_revocation
from imprint.serve.store.deletion import ENDED_AT, GUEST_OWNER, delete_chats, end_sessions, remove_ended
from imprint.serve.store.errors import StoreError, not_found
from imprint.serve.store.limits import Limits
from imprint.serve.store.login import Login, SignIn, Standing
from imprint.serve.store.names import refuse_weak_password
from imprint.serve.store.passwords import Passwords
from imprint.serve.store.principal import Actor, Principal
from imprint.serve.store.quota import ACCOUNT_OWNER
from imprint.serve.store.settings import guests_of
from imprint.serve.store.tables import ACCOUNTS, CHATS, SESSIONS, new_public_id
from imprint.serve.store.throttle import Throttle

TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
TOUCH_SECONDS: Final = 60.0
"""How old "last seen" may be: not every request writes."""


@dataclass(frozen=True)
class Session:
    """A session as its owner sees it."""

    id: str
    """Its name."""
    created_at: float
    """When it began, in seconds since 1970."""
    seen_at: float
    """When it was last used, to the minute."""
    address: str
    """From where it began."""
    is_this: bool
    """Whether it is the one that asks."""


class Sessions:
    """Begins, finds and ends sessions."""

    def __init__(self, database: Database, passwords: Passwords, limits: Limits) -> None:
        self._database = database
        self._passwords = passwords
        self._limits = limits
        self._sign_in = SignIn(database, passwords, limits)
        self._guests = Throttle(limits.guests_an_hour, 3600.0)
        self._guests_of_network = Throttle(ADDRESSES_A_SITE * limits.guests_an_hour, 3600.0)

    def login(self, name: str, password: str, address: str, *, replaces: str | None = None) -> Login:
        """Sign in: a new session, never one that was there before. `replaces`: the token of one that ends, a guest's.

        Raises StoreError "credentials" for a name and password that do not fit, whatever is wrong with them, and "throttled".
        """
        row = self._sign_in.verified(name, password, address)
        with self._database.writing() as connection:
            self._refuse_changed(connection, row)
            if replaces is not None:
                end_sessions(connection, _is_of(replaces))
            login = self._begin(connection, row, address)
            record(connection, self._database.now(), "login", Actor(row.name, address), row.name)
        if replaces is not None:
            remove_ended(self._database, _is_of(replaces))
        return login

    def standing(self, address: str) -> Standing:
        """How a login from an address is treated now; it waits for nothing. Raises StoreError "throttled" where it would be refused."""
        return self._sign_in.standing(address)

    def guest(self, address: str) -> Login:
        """Begin a session of the guest account, which is an owner of its own. Raises StoreError if there are no guests here."""
        for throttle, key in ((self._guests, visitor_address(address)), (self._guests_of_network, visitor_network(address))):
            if (seconds := throttle.take(key)) is not None:
                raise StoreError(
                    "throttled",
                    Bilingual("too many guests came from your address. Try again later.", "来自你所在地址的访客过多，请稍后再试。"),
                    retry_after=seconds,
                )
        with self._database.writing() as connection:
            row = connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.role == "guest", ACCOUNTS.c.disabled_at.is_(None))).first()
            if row is None or guests_of(connection) == "off":
                raise StoreError(
                    "forbidden",
                    Bilingual("guests are not let in here. Sign in, or ask for an account.", "此处不接待访客，请登录或申请账号。"),
                )
            guests = select(func.count()).select_from(SESSIONS).where(SESSIONS.c.account_id == row.id, SESSIONS.c.seen_at != ENDED_AT)
            if connection.execute(guests).scalar_one() >= self._limits.guest_sessions:
                raise StoreError(
                    "throttled", Bilingual("too many guests are here. Try again later.", "访客过多，请稍后再试。"), retry_after=3600.0
                )
            return self._begin(connection, row, address)

    def of(self, token: str) -> Principal | None:
        """Whose session a token is; None if it is of none, or of one that has ended."""
        if not TOKEN.fullmatch(token):
            return None
        with self._database.reading() as connection:
            row = connection.execute(BY_TOKEN, {"wanted": hash_of(token)}).first()
        return None if row is None else self._principal_now(row)

    def by_id(self, session_id: str) -> Principal | None:
        """The principal of a session as it is now; None if it has ended."""
        with self._database.reading() as connection:
            row = connection.execute(BY_ID, {"wanted": session_id}).first()
        return None if row is None else self._principal_now(row)

    def end(self, token: str, address: str | None = None) -> None:
        """Sign out: the session ends, and a guest's chats with it."""
        with self._database.writing() as connection:
            row = connection.execute(BY_TOKEN, {"wanted": hash_of(token)}).first()
            end_sessions(connection, _is_of(token))
            if row is not None and row.role != "guest":
                record(connection, self._database.now(), "logout", Actor(row.name, address), row.name)
        remove_ended(self._database, _is_of(token))

    def list(self, principal: Principal) -> tuple[Session, ...]:
        """The sessions of an account, newest first; a guest sees its own only."""
        query = select(SESSIONS).where(SESSIONS.c.owner == principal.owner).order_by(SESSIONS.c.id.desc())
        with self._database.reading() as connection:
            return tuple(
                Session(row.public_id, row.created_at, row.seen_at, row.address, row.public_id == principal.session_id)
                for row in connection.execute(query)
                if not self._has_ended(row)
            )

    def revoke(self, principal: Principal, session_id: str) -> None:
        """End one of one's own sessions. Raises StoreError for another's."""
        mine = (SESSIONS.c.public_id == session_id, SESSIONS.c.owner == principal.owner)
        with self._database.writing() as connection:
            if not end_sessions(connection, *mine):
                raise not_found("there is no such session. It may have ended.", "没有这个会话，可能已结束。")
        remove_ended(self._database, *mine)

    def end_all(self, account_id: int, actor: Actor) -> None:
        """End all sessions of an account."""
        with self._database.writing() as connection:
            row = find_account(connection, account_id)
            end_sessions(connection, SESSIONS.c.account_id == account_id)
            record(connection, self._database.now(), "sessions_ended", actor, row.name)
        remove_ended(self._database, SESSIONS.c.account_id == account_id)

    def change_password(self, principal: Principal, old: str, new: str, address: str) -> Login:
        """Change one's own password: all sessions of the account end, and a new one begins.

        Raises StoreError "credentials" if the old one is wrong, and "invalid" for a new one that is weak, or the old one again.
        """
        if principal.role == "guest" or principal.session_id is None:
            raise StoreError("forbidden", Bilingual("a guest has no password. Sign in first.", "访客没有密码，请先登录。"))
        row = self._sign_in.verified(principal.name, old, address)
        refuse_weak_password(new, row.name)
        if self._passwords.is_right(new, row.password_hash):
            raise StoreError(
                "invalid", Bilingual("password: is the old one. Choose another one.", "密码（password）与旧密码相同，请换一个。")
            )
        stored = self._passwords.hashed(new)
        values = {"password_hash": stored, "must_change_password": False, "password_expires_at": None}
        with self._database.writing() as connection:
            self._refuse_changed(connection, row)
            connection.execute(update(ACCOUNTS).where(ACCOUNTS.c.id == row.id).values(**values))
            end_sessions(connection, SESSIONS.c.account_id == row.id)
            record(connection, self._database.now(), "password_changed", Actor(row.name, address), row.name)
            return self._begin(connection, find_account(connection, row.id), address)

    def ended(self) -> Sequence[int]:
        """The rows of sessions that have ended by the clock."""
        with self._database.reading() as connection:
            return connection.execute(self._ended()).scalars().all()

    def delete_ended_chats(self) -> None:
        """Delete the chats of guests whose sessions have ended by the clock, while others write."""
        delete_chats(self._database, CHATS.c.session_id.in_(self._ended()))

    def _ended(self) -> Select[int]:
        now = self._database.now()
        ended = or_(SESSIONS.c.seen_at < now - self._limits.idle_seconds, SESSIONS.c.created_at < now - self._limits.session_seconds)
        return select(SESSIONS.c.id).where(ended)

    def remove(self, row: int) -> None:
        """Remove a session, with its chats if it is a guest's."""
        with self._database.writing() as connection:
            connection.execute(delete(SESSIONS).where(SESSIONS.c.id == row))
            count_revocation(connection)

    def _begin(self, connection: Connection, row: Row[Any], address: str) -> Login:
        """A new session of an account; of very many the oldest ends."""
        token, public_id, now = secrets.token_urlsafe(32), new_public_id(), self._database.now()
        owner = f"{GUEST_OWNER}{public_id}" if row.role == "guest" else f"{ACCOUNT_OWNER}{row.id}"
        if row.role != "guest":
            kept = self._limits.sessions_an_account - 1
            mine = SESSIONS.c.account_id == row.id
            oldest = connection.execute(select(SESSIONS.c.id).where(mine).order_by(SESSIONS.c.id.desc()).offset(kept).limit(1)).scalar()
            if oldest is not None:
                connection.execute(delete(SESSIONS).where(mine, SESSIONS.c.id <= oldest))
                count_revocation(connection)
        connection.execute(
            SESSIONS.insert().values(
                public_id=public_id,
                token_hash=hash_of(token),
                account_id=row.id,
                owner=owner,
                address=visitor_address(address),
                created_at=now,
                seen_at=now,
            )
        )
        return Login(token, principal_of(row, owner=owner, session_id=public_id, expires_at=now + self._limits.session_seconds))

    def _refuse_changed(self, connection: Connection, row: Row[Any]) -> None:
        """Raise StoreError if an account was disabled, or got another password, while the password was verified."""
        now = connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.id == row.id)).first()
        if now is None or now.disabled_at is not None or now.password_hash != row.password_hash:
            raise self._sign_in.refusal()

    def _principal_now(self, row: Row[Any]) -> Principal | None:
        """The principal of a session, which is seen now; None if it has ended, or the account is disabled."""
        if row.disabled_at is not None or self._has_ended(row):
            return None
        now = self._database.now()
        if not 0 <= now - row.seen_at < TOUCH_SECONDS:  # also where the clock was put back
            values = {"seen_at": now, "created_at": min(row.created_at, now)}
            same = (SESSIONS.c.public_id == row.public_id, SESSIONS.c.seen_at == row.seen_at)  # not one that was ended meanwhile
            self._database.touch(update(SESSIONS).where(*same).values(**values))
        return principal_of(row, owner=row.owner, session_id=row.public_id, expires_at=row.created_at + self._limits.session_seconds)

    def _has_ended(self, row: Row[Any]) -> bool:
        now = self._database.now()
        return bool(now - row.seen_at > self._limits.idle_seconds or now - row.created_at > self._limits.session_seconds)


def _joined() -> Any:
    """Sessions with what their principal needs of the account."""
    account = [
        ACCOUNTS.c[name] for name in ("name", "role", "models", "tokens_a_day", "concurrency", "must_change_password", "disabled_at")
    ]
    session = [SESSIONS.c[name] for name in ("public_id", "account_id", "owner", "created_at", "seen_at")]
    return select(ACCOUNTS.c.id, *account, *session).join(ACCOUNTS, SESSIONS.c.account_id == ACCOUNTS.c.id)


BY_TOKEN: Final = _joined().where(SESSIONS.c.token_hash == bindparam("wanted"))
BY_ID: Final = _joined().where(SESSIONS.c.public_id == bindparam("wanted"))
"""What every request of the page and every answer asks: made once, as making a query takes longer than asking it."""


def _is_of(token: str) -> ColumnElement[bool]:
    return SESSIONS.c.token_hash == hash_of(token)


def principal_of(row: Row[Any], *, owner: str, session_id: str, expires_at: float) -> Principal:
    """The principal of an account's row and one of its sessions."""
    return Principal(
        row.id,
        row.name,
        row.role,
        owner,
        models_of(row.models),
        row.tokens_a_day,
        row.concurrency,
        session_id,
        None,
        must_change_password=row.must_change_password,
        expires_at=expires_at,
    )


def hash_of(secret: str) -> str:
    """What is kept of a token or a key. Random bits need no salt and no slow hash."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
