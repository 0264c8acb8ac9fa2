"""Accounts: who they are, what they may use, and how admins change that."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from sqlalchemy import Connection, Row, delete, func, select, update
from sqlalchemy.exc import IntegrityError

from imprint.messages import Bilingual
from imprint.serve.store.audit import Action, record
from imprint.serve.store.database import Database, count_revocation
from imprint.serve.store.deletion import delete_chats, end_sessions, remove_ended
from imprint.serve.store.errors import StoreError, invalid, not_found
from imprint.serve.store.limits import Limits
from imprint.serve.store.look_alikes import looks
from imprint.serve.store.names import account_name, look_alike_error, name_key, name_taken, new_one_time_password, short_text
from imprint.serve.store.passwords import Passwords
from imprint.serve.store.permission import permitted_by
from imprint.serve.store.principal import Actor, Role
from imprint.serve.store.quota import tokens_of_accounts
from imprint.serve.store.tables import ACCOUNTS, CHATS, SESSIONS

MAX_CONTACT: Final = 200
MAX_MODELS: Final = 100
MAX_MODEL_NAME: Final = 128
MAX_TOKENS: Final = 10**12
MAX_CONCURRENCY: Final = 1000


@dataclass(frozen=True)
class Account:
    """An account as admins see it."""

    id: int
    """Its number."""
    name: str
    """Its name."""
    role: Role
    """What it may do."""
    models: frozenset[str] | None
    """The models it may use; None: all."""
    tokens_a_day: int
    """Most tokens in a day."""
    concurrency: int
    """Most answers at the same time."""
    contact: str
    """How the person can be reached."""
    created_at: float
    """When it was made, in seconds since 1970."""
    disabled_at: float | None
    """Since when it is disabled; None: it is not."""
    must_change_password: bool
    """Whether it has a one-time password."""
    used_today: int
    """Tokens of today (UTC)."""


@dataclass(frozen=True)
class CreatedAccount:
    """A new account with its one-time password, which is nowhere else."""

    account: Account
    """The account."""
    password: str
    """The password for its first login."""


class Accounts:
    """Makes, lists and changes accounts."""

    def __init__(self, database: Database, passwords: Passwords, limits: Limits) -> None:
        self._database = database
        self._passwords = passwords
        self._limits = limits

    def create(
        self,
        name: str,
        *,
        actor: Actor,
        role: Role = "user",
        models: frozenset[str] | None = None,
        tokens_a_day: int | None = None,
        concurrency: int | None = None,
        contact: str = "",
    ) -> CreatedAccount:
        """Make an account with a one-time password. Raises StoreError for a name that is taken, and values that are not allowed."""
        if role == "guest":
            raise invalid(
                "role: must be user or admin; there is one guest account, and each visitor has a session of it.",
                "role 须为 user 或 admin；访客账号只有一个，每位访客各有自己的会话。",
            )
        values = {
            "name": account_name(name),
            **self.checked_rights(role, models, tokens_a_day, concurrency),
            "contact": short_text(contact, "contact", most=MAX_CONTACT),
        }
        password, stored = self.new_password()
        with self._database.writing() as connection:
            account_id = self.insert(connection, values, stored, actor)
            return CreatedAccount(self._account(connection, account_id), password)

    def checked_rights(
        self, role: Role, models: frozenset[str] | None, tokens_a_day: int | None, concurrency: int | None
    ) -> dict[str, Any]:
        """What a new account may do, as it is kept; None takes the limits of its role. Raises StoreError for what is not allowed."""
        default = self._limits.admin_tokens_a_day if role == "admin" else self._limits.user_tokens_a_day
        return {
            "role": checked_role(role),
            "models": models_text(models),
            "tokens_a_day": checked_tokens(default if tokens_a_day is None else tokens_a_day),
            "concurrency": checked_concurrency(self._limits.user_concurrency if concurrency is None else concurrency),
        }

    def new_password(self) -> tuple[str, str]:
        """A one-time password and its hash."""
        password = new_one_time_password()
        return password, self._passwords.hashed(password)

    def insert(self, connection: Connection, values: Mapping[str, Any], stored: str, actor: Actor) -> int:
        """Add an account of checked values in a transaction, with the hash of its one-time password; its number.

        Raises StoreError for a name that is taken, or looks like another one.
        """
        now = self._database.now()
        try:
            result = connection.execute(
                ACCOUNTS.insert().values(
                    **values,
                    name_key=name_key(values["name"]),
                    password_hash=stored,
                    must_change_password=True,
                    password_expires_at=now + self._limits.one_time_seconds,
                    created_at=now,
                )
            )
        except IntegrityError as error:
            raise name_taken(values["name"]) from error
        _refuse_look_alike(connection, values["name"])
        record(connection, now, "account_created", actor, values["name"], f"role={values['role']}")
        assert result.inserted_primary_key is not None
        return int(result.inserted_primary_key[0])

    def seed(self) -> str | None:
        """Make the first admin and the guest account if they were never made; the admin's one-time password if this call made it.

        Of several first starts at the same time a unique constraint lets one make them.
        """
        with self._database.reading() as connection:
            if connection.execute(select(ACCOUNTS.c.id).where(ACCOUNTS.c.seed == "admin")).first() is not None:
                return None
            if connection.execute(select(func.count()).select_from(ACCOUNTS)).scalar_one():
                return None  # the first admin was deleted
        password, stored = self.new_password()
        try:
            with self._database.writing() as connection:
                self._insert_seeds(connection, stored)
        except IntegrityError:
            return None
        return password

    def _insert_seeds(self, connection: Connection, stored: str) -> None:
        same = {"contact": "", "created_at": self._database.now()}
        connection.execute(
            ACCOUNTS.insert().values(
                name="admin",
                name_key="admin",
                seed="admin",
                role="admin",
                password_hash=stored,
                must_change_password=True,
                tokens_a_day=self._limits.admin_tokens_a_day,
                concurrency=self._limits.user_concurrency,
                **same,
            )
        )
        connection.execute(
            ACCOUNTS.insert().values(
                name="guest",
                name_key="guest",
                seed="guest",
                role="guest",
                must_change_password=False,
                tokens_a_day=self._limits.guest_tokens_a_day,
                concurrency=self._limits.guest_concurrency,
                **same,
            )
        )

    def list(self) -> tuple[Account, ...]:
        """All accounts, by name."""
        with self._database.reading() as connection:
            rows = connection.execute(select(ACCOUNTS).order_by(ACCOUNTS.c.name_key)).all()
            used = tokens_of_accounts(connection, self._database.now())
            return tuple(account_of(row, used.get(row.id, 0)) for row in rows)

    def named(self, name: str) -> Account:
        """The account of this name. Raises StoreError if there is none."""
        with self._database.reading() as connection:
            row = connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.name_key == name_key(name))).first()
            if row is None:
                raise not_found(
                    f'there is no account "{name}". `imprint user list` shows all.', f'没有账号 "{name}"；用 `imprint user list` 查看全部。'
                )
            return account_of(row, tokens_of_accounts(connection, self._database.now()).get(row.id, 0))

    def get(self, account_id: int) -> Account:
        """The account of this number. Raises StoreError if there is none."""
        with self._database.reading() as connection:
            return self._account(connection, account_id)

    def change(
        self,
        account_id: int,
        *,
        actor: Actor,
        role: Role | None = None,
        tokens_a_day: int | None = None,
        concurrency: int | None = None,
        models: frozenset[str] | Literal["all"] | None = None,
        disabled: bool | None = None,
    ) -> Account:
        """Change what is not None, all of it or nothing.

        A change of the role ends all sessions of the account, as disabling it does. Answers from models it may no longer use are cancelled.
        """
        values: dict[str, Any] = {}
        if role is not None:
            values["role"] = checked_role(role)
        if tokens_a_day is not None:
            values["tokens_a_day"] = checked_tokens(tokens_a_day)
        if concurrency is not None:
            values["concurrency"] = checked_concurrency(concurrency)
        if models is not None:
            values["models"] = models_text(None if models == "all" else models)
        with self._database.writing() as connection:
            row = find_account(connection, account_id)
            if disabled is not None:
                self._set_disabled(connection, row, actor, disabled=disabled)
            if models is not None:
                count_revocation(connection)
            if role is not None and role != row.role:
                refuse_guest_account(row, "role", role)
                if role != "admin":
                    _refuse_last_admin(connection, row)
                end_sessions(connection, SESSIONS.c.account_id == account_id)
            if values:
                self._update(connection, row, values, actor, "account_changed", _changes_text(values))
            changed = self._account(connection, account_id)
        remove_ended(self._database, SESSIONS.c.account_id == account_id)
        return changed

    def disable(self, account_id: int, actor: Actor) -> None:
        """End all sessions of an account, and let neither its password nor its keys in until it is enabled."""
        self.change(account_id, actor=actor, disabled=True)

    def enable(self, account_id: int, actor: Actor) -> None:
        """Let an account in again."""
        self.change(account_id, actor=actor, disabled=False)

    def _set_disabled(self, connection: Connection, row: Row[Any], actor: Actor, *, disabled: bool) -> None:
        if disabled:
            _refuse_last_admin(connection, row)
            end_sessions(connection, SESSIONS.c.account_id == row.id)
        values = {"disabled_at": self._database.now() if disabled else None}
        self._update(connection, row, values, actor, "account_disabled" if disabled else "account_enabled")

    def delete(self, account_id: int, actor: Actor) -> None:
        """Delete an account with its sessions, keys and chats. It is disabled first, as many chats take some time."""
        with self._database.writing() as connection:
            row = find_account(connection, account_id)
            refuse_guest_account(row, "role", None)
            _refuse_last_admin(connection, row)
            end_sessions(connection, SESSIONS.c.account_id == account_id)
            if row.disabled_at is None:  # said, in case that the rest is never done
                self._update(connection, row, {"disabled_at": self._database.now()}, actor, "account_disabled")
        with permitted_by(None):  # it was decided by one who might: it goes on also where that was the account itself
            delete_chats(self._database, CHATS.c.account_id == account_id)
            with self._database.writing() as connection:
                _refuse_last_admin(connection, find_account(connection, account_id))  # it may have been enabled again
                end_sessions(connection, SESSIONS.c.account_id == account_id)
                connection.execute(delete(ACCOUNTS).where(ACCOUNTS.c.id == account_id))
                record(connection, self._database.now(), "account_deleted", actor, row.name)

    def reset_password(self, account_id: int, actor: Actor) -> str:
        """End all sessions of an account and give it a one-time password, which is returned."""
        with self._database.reading() as connection:
            refuse_guest_account(find_account(connection, account_id), "role", None)
        password, stored = self.new_password()
        values = {
            "password_hash": stored,
            "must_change_password": True,
            "password_expires_at": self._database.now() + self._limits.one_time_seconds,
        }
        with self._database.writing() as connection:
            row = find_account(connection, account_id)
            end_sessions(connection, SESSIONS.c.account_id == account_id)
            self._update(connection, row, values, actor, "password_reset")
        return password

    def admins_with_first_password(self) -> tuple[str, ...]:
        """Names of the admins who have not changed their one-time password yet."""
        wanted = (ACCOUNTS.c.role == "admin", ACCOUNTS.c.must_change_password, ACCOUNTS.c.disabled_at.is_(None))
        with self._database.reading() as connection:
            return tuple(connection.execute(select(ACCOUNTS.c.name).where(*wanted).order_by(ACCOUNTS.c.name_key)).scalars())

    def _account(self, connection: Connection, account_id: int) -> Account:
        used = tokens_of_accounts(connection, self._database.now()).get(account_id, 0)
        return account_of(find_account(connection, account_id), used)

    def _update(
        self, connection: Connection, row: Row[Any], values: Mapping[str, Any], actor: Actor, action: Action, detail: str = ""
    ) -> None:
        if values:
            connection.execute(update(ACCOUNTS).where(ACCOUNTS.c.id == row.id).values(**values))
        record(connection, self._database.now(), action, actor, row.name, detail)


def account_of(row: Row[Any], used_today: int) -> Account:
    """A row of the table as what admins see of it."""
    return Account(
        row.id,
        row.name,
        row.role,
        models_of(row.models),
        row.tokens_a_day,
        row.concurrency,
        row.contact,
        row.created_at,
        row.disabled_at,
        row.must_change_password,
        used_today,
    )


def find_account(connection: Connection, account_id: int) -> Row[Any]:
    """The row of an account. Raises StoreError if there is none."""
    row = connection.execute(select(ACCOUNTS).where(ACCOUNTS.c.id == account_id)).first()
    if row is None:
        raise not_found("there is no such account. It may have been deleted.", "没有这个账号，可能已被删除。")
    return row


def _refuse_look_alike(connection: Connection, name: str) -> None:
    """Raise StoreError if an account of another name looks the same."""
    shapes = looks(name)
    for other in connection.execute(select(ACCOUNTS.c.name).where(ACCOUNTS.c.name_key != name_key(name))).scalars():
        if shapes & looks(other):
            raise look_alike_error(name, other)


def _changes_text(values: Mapping[str, Any]) -> str:
    """Changed columns and their new values, for the audit log."""
    changes = dict(values)
    if "models" in changes:
        models = models_of(changes["models"])
        changes["models"] = "all" if models is None else ", ".join(sorted(models)) or "none"
    return " ".join(f"{key}={value}" for key, value in changes.items())


def _refuse_last_admin(connection: Connection, row: Row[Any]) -> None:
    """Raise StoreError if without this account nobody could manage the others."""
    others = (ACCOUNTS.c.role == "admin", ACCOUNTS.c.disabled_at.is_(None), ACCOUNTS.c.id != row.id)
    is_admin = row.role == "admin" and row.disabled_at is None
    if is_admin and connection.execute(select(ACCOUNTS.c.id).where(*others).limit(1)).first() is None:
        raise StoreError(
            "conflict",
            Bilingual(
                f'"{row.name}" is the only admin. Make another one first: `imprint user add NAME role=admin`.',
                f'"{row.name}" 是唯一的管理员。请先添加另一个：`imprint user add NAME role=admin`。',
            ),
        )


def refuse_guest_account(row: Row[Any], field: str, value: Role | None) -> None:
    """Raise StoreError for what would make the guest account another's, or another one a guest's."""
    if row.role == "guest" or value == "guest":
        raise StoreError(
            "conflict",
            Bilingual(
                f"{field}: the guest account stays what it is, and no other becomes one. To keep guests out: `imprint user disable guest`.",
                f"{field}：访客账号不能改作他用，其他账号也不能成为访客账号。要拒绝访客，请用 `imprint user disable guest`。",
            ),
        )


def checked_role(role: str) -> str:
    """A role. Raises StoreError for a word that is none."""
    if role not in get_args(Role):
        raise invalid(f"role: must be user or admin, got {role!r}.", f"role 须为 user 或 admin，实际是 {role!r}。")
    return role


def checked_tokens(tokens: int) -> int:
    """A quota of a day. Raises StoreError if it is out of bounds."""
    _refuse_outside("tokens_a_day", tokens, 0, MAX_TOKENS)
    return tokens


def checked_concurrency(concurrency: int) -> int:
    """A number of answers at the same time. Raises StoreError if it is out of bounds."""
    _refuse_outside("concurrency", concurrency, 1, MAX_CONCURRENCY)
    return concurrency


def _refuse_outside(name: str, value: int, least: int, most: int) -> None:
    """Raise StoreError for a number that is out of bounds."""
    if not least <= value <= most:
        raise invalid(f"{name}: must be from {least} to {most:,}, got {value:,}.", f"{name} 须为 {least} 到 {most:,}，实际是 {value:,}。")


def models_text(models: frozenset[str] | None) -> str | None:
    """Names of models as they are kept. Raises StoreError for too many or too long ones."""
    if models is None:
        return None
    if len(models) > MAX_MODELS:
        raise invalid(f"models: at most {MAX_MODELS}, got {len(models)}.", f"models 最多 {MAX_MODELS} 个，实际是 {len(models)} 个。")
    return json.dumps(sorted(short_text(model, "models", most=MAX_MODEL_NAME, least=1) for model in models), ensure_ascii=False)


def models_of(text: str | None) -> frozenset[str] | None:
    """Names of models from how they are kept."""
    return None if text is None else frozenset(json.loads(text))
