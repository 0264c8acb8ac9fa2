"""The tables of the database, as they are after the newest migration; queries are built of them.

Times are seconds since 1970. A `public_id` is what people see: 128 random bits. Secrets are kept as hashes only.
"""

import secrets
from typing import Final

from sqlalchemy import Boolean, CheckConstraint, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text

METADATA: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

ACCOUNTS: Final = Table(
    "accounts",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("name_key", String(256), nullable=False, unique=True),  # by which names are equal, whatever their case
    Column("seed", String(16), unique=True),  # "admin" and "guest" of the first start, so that a second start makes no second one
    Column("role", String(16), nullable=False),
    Column("password_hash", Text),  # null: nobody signs in by password
    Column("must_change_password", Boolean(name="must_change_password"), nullable=False),
    Column("password_expires_at", Float),  # of a one-time password
    Column("models", Text),  # JSON list; null: all
    Column("tokens_a_day", Integer, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("contact", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("disabled_at", Float),
    CheckConstraint("role in ('guest', 'user', 'admin')", name="role"),
    sqlite_autoincrement=True,  # the owner "account:7" never becomes another account's
)

SESSIONS: Final = Table(
    "sessions",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("public_id", String(32), nullable=False, unique=True),
    Column("token_hash", String(64), nullable=False, unique=True),
    Column("account_id", ForeignKey(ACCOUNTS.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("owner", String(64), nullable=False),
    Column("address", String(64), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False, index=True),
)

KEYS: Final = Table(
    "api_keys",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("public_id", String(32), nullable=False, unique=True),
    Column("account_id", ForeignKey(ACCOUNTS.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("name", String(64), nullable=False),
    Column("prefix", String(16), nullable=False, index=True),
    Column("hash", String(64), nullable=False, unique=True),
    Column("models", Text),  # JSON list; null: those of the account
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("revoked_at", Float),
    Column("used_at", Float),
)

REQUESTS: Final = Table(
    "account_requests",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("public_id", String(32), nullable=False, unique=True),
    Column("name", String(64), nullable=False),
    Column("contact", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("address", String(64), nullable=False, index=True),
    Column("asked_at", Float, nullable=False),
    Column("decision", String(16)),  # null: open
    Column("decided_at", Float),
    Column("decided_by", String(64)),
    CheckConstraint("decision in ('approved', 'declined')", name="decision"),
)

USAGE: Final = Table(
    "usage",
    METADATA,
    Column("subject", String(96), primary_key=True),  # an owner, or "address:..." of guests
    Column("day", String(10), primary_key=True),  # of UTC
    Column("tokens", Integer, nullable=False),
)

RESERVATIONS: Final = Table(
    "reservations",
    METADATA,
    Column("public_id", String(32), primary_key=True),
    Column("subject", String(96), primary_key=True),
    Column("day", String(10), nullable=False),
    Column("tokens", Integer, nullable=False),
    Index(None, "subject", "day"),
)

SETTINGS: Final = Table(
    "settings",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

COUNTERS: Final = Table(
    "counters",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("value", Integer, nullable=False),
)

AUDIT: Final = Table(
    "audit",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("address", String(64)),
    Column("action", String(32), nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Index(None, "action", "id"),
    sqlite_autoincrement=True,
)

CHATS: Final = Table(
    "chats",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("public_id", String(32), nullable=False, unique=True),
    Column("owner", String(64), nullable=False),
    Column("account_id", ForeignKey(ACCOUNTS.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("session_id", ForeignKey(SESSIONS.c.id, ondelete="CASCADE"), index=True),  # of a guest, with which its chats end
    Column("title", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Index(None, "owner", "updated_at", "public_id"),
)

MESSAGES: Final = Table(
    "messages",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("public_id", String(32), nullable=False, unique=True),
    Column("chat_id", ForeignKey(CHATS.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("parent_id", ForeignKey("messages.id", deferrable=True, initially="DEFERRED"), index=True),  # all go with their chat, at once
    Column("role", String(16), nullable=False),
    Column("text", Text, nullable=False),
    Column("model", Text),
    Column("state", String(16), nullable=False, index=True),
    Column("finish", String(16)),
    Column("prompt_tokens", Integer, nullable=False),
    Column("new_tokens", Integer, nullable=False),
    Column("error_english", Text),
    Column("error_chinese", Text),
    Column("created_at", Float, nullable=False),
    CheckConstraint("role in ('system', 'user', 'assistant')", name="role"),
    CheckConstraint("state in ('writing', 'done', 'interrupted', 'error')", name="state"),
)


def new_public_id() -> str:
    """128 random bits as 32 hex digits."""
    return secrets.token_hex(16)
