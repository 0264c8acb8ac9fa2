"""API keys: shown once, kept as hashes, ended at once."""

import re
import secrets
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, and_, bindparam, delete, func, or_, select, update

from imprint.messages import Bilingual
from imprint.serve.store.accounts import find_account, models_of, models_text, refuse_guest_account
from imprint.serve.store.audit import record
from imprint.serve.store.database import Database, count_revocation
from imprint.serve.store.errors import StoreError, invalid, not_found
from imprint.serve.store.limits import Limits
from imprint.serve.store.names import short_text
from imprint.serve.store.principal import Actor, Principal
from imprint.serve.store.quota import ACCOUNT_OWNER
from imprint.serve.store.sessions import hash_of
from imprint.serve.store.tables import ACCOUNTS, KEYS, new_public_id

BEGINNING: Final = "sk-"
KEY: Final = re.compile(r"sk-[A-Za-z0-9_-]{43}")
PREFIX_LENGTH: Final = 9
"""Characters of a key that lists show: enough to tell one's keys apart, 36 of 256 bits."""
MAX_KEY_NAME: Final = 64
TOUCH_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Key:
    """A key as its account sees it: without the key."""

    id: str
    """Its name for the service."""
    name: str
    """What it is for, in the words of its account."""
    prefix: str
    """How it begins."""
    models: frozenset[str] | None
    """The models it is limited to; None: those of the account."""
    created_at: float
    """When it was made, in seconds since 1970."""
    expires_at: float | None
    """When it ends by itself; None: never."""
    revoked_at: float | None
    """When it was revoked; None: it was not."""
    used_at: float | None
    """When it was last used, to the minute; None: never."""


@dataclass(frozen=True)
class CreatedKey:
    """A new key, which nothing shows again."""

    key: str
    """The key."""
    info: Key
    """What lists show of it."""


class Keys:
    """Makes, finds and revokes keys."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits

    def create(
        self,
        account_id: int,
        *,
        actor: Actor,
        name: str = "",
        models: frozenset[str] | None = None,
        expires_at: float | None = None,
    ) -> CreatedKey:
        """Make a key of an account. Raises StoreError for a guest, for too many keys, and for values that are not allowed."""
        now = self._database.now()
        if expires_at is not None and expires_at <= now:
            raise invalid("expires_at: is in the past. Give a later time, or none.", "expires_at 已经过去，请给出将来的时间，或不写。")
        key = BEGINNING + secrets.token_urlsafe(32)
        values = {
            "public_id": new_public_id(),
            "account_id": account_id,
            "name": short_text(name, "name", most=MAX_KEY_NAME),
            "prefix": key[:PREFIX_LENGTH],
            "hash": hash_of(key),
            "models": models_text(models),
            "created_at": now,
            "expires_at": expires_at,
        }
        with self._database.writing() as connection:
            account = find_account(connection, account_id)
            refuse_guest_account(account, "role", None)
            mine = KEYS.c.account_id == account_id
            alive = and_(KEYS.c.revoked_at.is_(None), or_(KEYS.c.expires_at.is_(None), KEYS.c.expires_at > now))
            if connection.execute(select(func.count()).select_from(KEYS).where(mine, alive)).scalar_one() >= self._limits.keys_an_account:
                raise StoreError(
                    "conflict",
                    Bilingual(
                        f"this account has {self._limits.keys_an_account} keys. Revoke one first.",
                        f"此账号已有 {self._limits.keys_an_account} 个密钥，请先撤销一个。",
                    ),
                )
            ended = (mine, ~alive)
            oldest = select(KEYS.c.id).where(*ended).order_by(KEYS.c.id.desc()).offset(self._limits.keys_an_account).limit(1)
            if (last := connection.execute(oldest).scalar()) is not None:
                connection.execute(delete(KEYS).where(*ended, KEYS.c.id <= last))
            connection.execute(KEYS.insert().values(**values))
            record(connection, now, "key_created", actor, account.name, f"key={key[:PREFIX_LENGTH]}...")
            row = connection.execute(select(KEYS).where(KEYS.c.public_id == values["public_id"])).one()
            return CreatedKey(key, _key(row))

    def of(self, key: str) -> Principal | None:
        """Whose key this is; None if it is nobody's, has ended, or its account is disabled."""
        if not KEY.fullmatch(key):
            return None
        wanted = hash_of(key)
        with self._database.reading() as connection:
            row = connection.execute(BY_HASH, {"wanted": wanted}).first()
        if row is None or not secrets.compare_digest(row.hash, wanted):
            return None
        return self._principal_now(row)

    def by_id(self, key_id: str) -> Principal | None:
        """The principal of a key as it is now; None if it has ended."""
        with self._database.reading() as connection:
            row = connection.execute(BY_ID, {"wanted": key_id}).first()
        return None if row is None else self._principal_now(row)

    def list(self, account_id: int) -> tuple[Key, ...]:
        """The keys of an account, newest first; of those that have ended, the newest."""
        query = select(KEYS).where(KEYS.c.account_id == account_id).order_by(KEYS.c.id.desc())
        with self._database.reading() as connection:
            return tuple(map(_key, connection.execute(query)))

    def revoke(self, account_id: int, key_id: str, actor: Actor) -> None:
        """End a key of an account at once. Raises StoreError for another's."""
        now = self._database.now()
        with self._database.writing() as connection:
            mine = (KEYS.c.public_id == key_id, KEYS.c.account_id == account_id)
            row = connection.execute(select(KEYS).where(*mine)).first()
            if row is None:
                raise not_found("there is no such key.", "没有这个密钥。")
            if row.revoked_at is None:
                connection.execute(update(KEYS).where(*mine).values(revoked_at=now))
                count_revocation(connection)
                record(connection, now, "key_revoked", actor, find_account(connection, account_id).name, f"key={row.prefix}...")

    def _principal_now(self, row: Row[Any]) -> Principal | None:
        """The principal of a key, which is used now."""
        now = self._database.now()
        has_expired = row.expires_at is not None and now >= row.expires_at
        if row.revoked_at is not None or row.disabled_at is not None or has_expired or row.role == "guest":
            return None
        if row.used_at is None or not 0 <= now - row.used_at < TOUCH_SECONDS:
            self._database.touch(update(KEYS).where(KEYS.c.public_id == row.public_id).values(used_at=now))
        of_account, of_key = models_of(row.account_models), models_of(row.models)
        both = of_key if of_account is None else of_account if of_key is None else of_account & of_key
        return Principal(
            row.account_id,
            row.account_name,
            row.role,
            f"{ACCOUNT_OWNER}{row.account_id}",
            both,
            row.tokens_a_day,
            row.concurrency,
            None,
            row.public_id,
            must_change_password=False,  # its password is not how it came in
            expires_at=row.expires_at,
        )


def _joined() -> Any:
    """Keys with what their principal needs of the account."""
    account = [ACCOUNTS.c[name] for name in ("role", "tokens_a_day", "concurrency", "disabled_at")]
    names = ACCOUNTS.c.name.label("account_name"), ACCOUNTS.c.models.label("account_models")
    return select(KEYS, *account, *names).join(ACCOUNTS, KEYS.c.account_id == ACCOUNTS.c.id)


BY_HASH: Final = _joined().where(KEYS.c.hash == bindparam("wanted"))
BY_ID: Final = _joined().where(KEYS.c.public_id == bindparam("wanted"))
"""What every request and every answer asks: made once, as making a query takes longer than asking it."""


def _key(row: Row[Any]) -> Key:
    return Key(row.public_id, row.name, row.prefix, models_of(row.models), row.created_at, row.expires_at, row.revoked_at, row.used_at)
