"""Names and passwords at the door: throttled, in equal time for names that exist and names that do not."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, select, update

from imprint.messages import Bilingual
from imprint.serve.store.addresses import visitor_address, visitor_network
from imprint.serve.store.audit import record
from imprint.serve.store.database import Database
from imprint.serve.store.errors import StoreError
from imprint.serve.store.limits import Limits
from imprint.serve.store.names import MAX_NAME, MAX_PASSWORD, MAX_TYPED, name_key
from imprint.serve.store.passwords import Passwords
from imprint.serve.store.principal import Actor, Principal
from imprint.serve.store.tables import ACCOUNTS
from imprint.serve.store.throttle import Throttle

NOBODY = "(no such account)"
"""In the audit log, for a name that no account has: it may be a password, typed into the wrong field."""

SUSPECT_FAILURES: Final = 3
"""Wrong passwords of a network in a minute from which on its logins are suspected: people mistype one or two."""

Tries = Sequence[tuple[Throttle, Hashable]]
"""Where a try is counted, each with its key."""


@dataclass(frozen=True)
class Login:
    """A session that has begun."""

    token: str
    """Its secret, which the browser keeps; nobody else does."""
    principal: Principal
    """Who it is."""


@dataclass(frozen=True)
class Standing:
    """How a login from an address is treated at this moment."""

    is_suspect: bool
    """Whether several passwords from its network were wrong in the last minute, or are being verified."""
    brake_seconds: float
    """How long it waits then before it is verified, as very many guess everywhere."""


class SignIn:
    """Verifies names and passwords."""

    def __init__(self, database: Database, passwords: Passwords, limits: Limits) -> None:
        self._database = database
        self._passwords = passwords
        self._limits = limits
        self._by_name = Throttle(limits.failures_a_minute, 60.0)
        self._by_address = Throttle(limits.address_failures_a_minute, 60.0)
        self._by_network = Throttle(limits.network_failures_a_minute, 60.0)
        self._all = Throttle(limits.all_failures_a_minute, 60.0)
        self._right = Throttle(limits.logins_a_minute, 60.0)

    def standing(self, address: str) -> Standing:
        """How a login from an address is treated, without a look at the disk. Raises StoreError "throttled" where it is refused anyway."""
        for throttle, key in ((self._by_network, visitor_network(address)), (self._by_address, visitor_address(address))):
            if (seconds := throttle.wait(key)) is not None:
                raise _throttled(seconds)
        is_suspect = self._by_network.count(visitor_network(address)) >= SUSPECT_FAILURES
        very_many = self._all.wait(None) is not None
        return Standing(is_suspect, self._limits.brake_seconds if is_suspect and very_many else 0.0)

    def verified(self, name: str, password: str, address: str) -> Row[Any]:
        """The row of the account that has this name and password.

        A try counts before the password is verified, so that many at once are no more tries; a right one is uncounted, and counts among
        the right ones. Raises StoreError "credentials", the same whatever is wrong, "throttled", and "busy" if too many wait.
        """
        key = name_key(name[: MAX_TYPED * MAX_NAME]).encode("utf-8", "replace").decode()
        tries = self._counted(key, address)
        with self._database.reading() as connection:
            row = connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.name_key == key)).first()
        try:
            is_right = self._passwords.is_right(password[: MAX_TYPED * MAX_PASSWORD + 1], None if row is None else row.password_hash)
        except StoreError:
            _uncount(tries)
            raise
        if row is None or not is_right or not self._may_enter(row) or len(password) > MAX_TYPED * MAX_PASSWORD:
            actor = Actor(NOBODY if row is None else row.name, address)
            with self._database.writing() as connection:
                record(connection, self._database.now(), "login_failed", actor, actor.name)
            raise self.refusal()
        _uncount(tries)
        self._right.take(key)
        return self._rehashed(row, password) if self._passwords.is_outdated(row.password_hash) else row

    def refusal(self) -> StoreError:
        """The one answer to all wrong names and passwords."""
        return StoreError(
            "credentials",
            Bilingual(
                "name or password is wrong, or the account is disabled. Check both; an admin can reset the password.",
                "用户名或密码不对，或账号已停用。请检查；管理员可以重设密码。",
            ),
        )

    def _counted(self, key: str, address: str) -> Tries:
        """Count a try everywhere, or nowhere and raise StoreError; where it is counted."""
        if self._right.count(key) >= self._right.most:
            raise StoreError(
                "throttled",
                Bilingual("this account signs in too often. Try again in a minute.", "此账号登录过于频繁，请一分钟后再试。"),
                retry_after=60.0,
            )
        visitor, network, tries = visitor_address(address), visitor_network(address), list[tuple[Throttle, Hashable]]()
        for throttle, counted in ((self._by_network, network), (self._by_address, visitor), (self._by_name, (visitor, key))):
            if (seconds := throttle.take(counted)) is not None:
                _uncount(tries)
                raise _throttled(seconds)
            tries.append((throttle, counted))
        if self._all.take(None) is None:
            tries.append((self._all, None))
        return tries

    def _may_enter(self, row: Row[Any]) -> bool:
        if row.disabled_at is not None or row.role == "guest":
            return False
        return row.password_expires_at is None or self._database.now() <= row.password_expires_at

    def _rehashed(self, row: Row[Any], password: str) -> Row[Any]:
        """The row with the password hashed at the costs of now; as it was if hashing is busy, or the password was changed meanwhile."""
        same = (ACCOUNTS.c.id == row.id, ACCOUNTS.c.password_hash == row.password_hash)
        try:
            stored = self._passwords.hashed(password)
            with self._database.writing() as connection:
                if not connection.execute(update(ACCOUNTS).where(*same).values(password_hash=stored)).rowcount:
                    return row
                return connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.id == row.id)).one()
        except StoreError:
            return row


def _uncount(tries: Tries) -> None:
    """Take a try back where it was counted."""
    for throttle, counted in tries:
        throttle.give_back(counted)


def _throttled(seconds: float) -> StoreError:
    """The error for too many wrong passwords, for so many seconds."""
    message = Bilingual(f"too many wrong passwords. Try again in {seconds:.0f} seconds.", f"密码错误次数过多，请 {seconds:.0f} 秒后再试。")
    return StoreError("throttled", message, retry_after=seconds)
