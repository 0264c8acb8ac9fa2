"""Names and passwords at the door: throttled, in equal time for names that exist and names that do not."""

import unicodedata
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select, update

from imprint.messages import Bilingual
from imprint.serve.store.addresses import visitor_address
from imprint.serve.store.audit import record
from imprint.serve.store.database import Database
from imprint.serve.store.errors import StoreError
from imprint.serve.store.limits import Limits
from imprint.serve.store.names import MAX_NAME, MAX_PASSWORD, name_key
from imprint.serve.store.passwords import Passwords
from imprint.serve.store.principal import Actor, Principal
from imprint.serve.store.tables import ACCOUNTS
from imprint.serve.store.throttle import Throttle

NOBODY = "(no such account)"
"""In the audit log, for a name that no account has: it may be a password, typed into the wrong field."""


@dataclass(frozen=True)
class Login:
    """A session that has begun."""

    token: str
    """Its secret, which the browser keeps; nobody else does."""
    principal: Principal
    """Who it is."""


class SignIn:
    """Verifies names and passwords."""

    def __init__(self, database: Database, passwords: Passwords, limits: Limits) -> None:
        self._database = database
        self._passwords = passwords
        self._limits = limits
        self._by_name = Throttle(limits.failures_a_minute, 60.0)
        self._by_address = Throttle(limits.address_failures_a_minute, 60.0)
        self._all = Throttle(limits.all_failures_a_minute, 60.0)
        self._right = Throttle(limits.logins_a_minute, 60.0)

    def verified(self, name: str, password: str, address: str) -> Row[Any]:
        """The row of the account that has this name and password.

        A try counts before the password is verified, so that many at once are no more tries; a right one is uncounted, and counts among
        the right ones. Raises StoreError "credentials", the same whatever is wrong, "throttled", and "busy" if too many wait.
        """
        key = name_key(unicodedata.normalize("NFC", name[: 2 * MAX_NAME])).encode("utf-8", "replace").decode()
        visitor = visitor_address(address)
        delay = self._counted(key, visitor)
        with self._database.reading() as connection:
            row = connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.name_key == key)).first()
        try:
            is_right = self._passwords.is_right(password[: MAX_PASSWORD + 1], None if row is None else row.password_hash, delay=delay)
        except StoreError:
            self._uncount(key, visitor)
            raise
        if row is None or not is_right or not self._may_enter(row) or len(password) > MAX_PASSWORD:
            actor = Actor(NOBODY if row is None else row.name, address)
            with self._database.writing() as connection:
                record(connection, self._database.now(), "login_failed", actor, actor.name)
            raise self.refusal()
        self._uncount(key, visitor)
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

    def _counted(self, key: str, visitor: str) -> float:
        """Count a try, or raise StoreError; the seconds that it has to take longer."""
        if self._right.count(key) >= self._right.most:
            raise StoreError(
                "throttled",
                Bilingual("this account signs in too often. Try again in a minute.", "此账号登录过于频繁，请一分钟后再试。"),
                retry_after=60.0,
            )
        seconds = self._by_address.take(visitor)
        if seconds is None and (seconds := self._by_name.take((visitor, key))) is not None:
            self._by_address.give_back(visitor)
        if seconds is not None:
            raise StoreError(
                "throttled",
                Bilingual(
                    f"too many wrong passwords. Try again in {seconds:.0f} seconds.", f"密码错误次数过多，请 {seconds:.0f} 秒后再试。"
                ),
                retry_after=seconds,
            )
        return 0.0 if self._all.take(None) is None else self._limits.brake_seconds

    def _uncount(self, key: str, visitor: str) -> None:
        self._by_address.give_back(visitor)
        self._by_name.give_back((visitor, key))
        self._all.give_back(None)

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
