"""What the service relies on in the rows of a backup: a file that anybody may have written is read before it takes the database's place."""

import math
import re
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

from sqlalchemy import Boolean, Column, Float, Integer, Table, Text, literal_column, select

from imprint.messages import Bilingual
from imprint.serve.store.accounts import MAX_CONCURRENCY, MAX_TOKENS, models_of
from imprint.serve.store.chats import MessageRole, MessageState
from imprint.serve.store.database import REVOCATIONS
from imprint.serve.store.errors import StoreError
from imprint.serve.store.names import name_key
from imprint.serve.store.principal import Role
from imprint.serve.store.quota import ACCOUNT_OWNER
from imprint.serve.store.tables import METADATA

CHECK_SECONDS: Final = 600.0
"""Most seconds for all rows; a million messages take some seconds."""
STEPS: Final = 100_000
"""SQLite VM instructions between clock checks."""
MAX_SHORT: Final = 1_024
"""Most characters of a name, an id, an address and the like: more than any that the service writes."""
MAX_LONG: Final = 10_000_000
"""The same, of a message and other texts."""
MAX_NUMBER: Final = 2**53
MAX_TIME: Final = 253_402_300_799.0
"""The last second of the year 9999, the last that a date can tell, in seconds since 1970."""
MAX_HASH_KIB: Final = 2**20
"""Most memory of the hash of a password: verifying one that wants more would take the machine's."""
ID: Final = re.compile(r"[0-9a-f]{32}")
DIGEST: Final = re.compile(r"[0-9a-f]{64}")
PREFIX: Final = re.compile(r"sk-[A-Za-z0-9_-]{1,13}")
DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
PASSWORD_HASH: Final = re.compile(r"\$argon2id\$v=\d{1,3}\$m=(\d{1,9}),t=\d{1,2},p=\d{1,2}\$[A-Za-z0-9+/]{8,128}\$[A-Za-z0-9+/]{8,128}")
Check = Callable[[Any], bool]


def refuse_wrong_rows(connection: sqlite3.Connection, file: Path) -> None:
    """Raise StoreError for a value that the service never writes, and for rows that belong to none; says the table and what was found.

    The file has the tables of its version. It is read once, in `CHECK_SECONDS` at most.
    """
    until = time.monotonic() + CHECK_SECONDS
    connection.set_progress_handler(lambda: time.monotonic() >= until, STEPS)
    table = ""
    try:
        for one in METADATA.sorted_tables:
            table = one.name
            _refuse_wrong_values(connection, one, file)
        for table, what, query in RELATIONS:
            if (row := connection.execute(query).fetchone()) is not None:
                raise _wrong(file, table, row[0], what)
        for table, row_id, parent, _ in connection.execute("PRAGMA foreign_key_check"):
            raise _wrong(file, table, row_id, Bilingual(f"it belongs to a row of {parent} that is not there", f"所属的 {parent} 行不存在"))
    except sqlite3.Error as error:
        why = (
            Bilingual("reading it takes too long", "读取耗时过长")
            if time.monotonic() >= until
            else Bilingual("it cannot be read, or has a text that is no UTF-8", "无法读取，或含有不是 UTF-8 的文本")
        )
        raise _wrong(file, table, None, why) from error
    finally:
        connection.set_progress_handler(None, 0)


def _refuse_wrong_values(connection: sqlite3.Connection, table: Table, file: Path) -> None:
    """Raise StoreError for the first row of a table with a value that the service never writes."""
    present = {row[1] for row in connection.execute("SELECT * FROM pragma_table_info(?)", (table.name,))}
    columns = [column for column in table.columns if column.name in present]
    checks = [_check_of(column) for column in columns]
    names = [column.name for column in columns]
    for row_id, *values in connection.execute(str(select(literal_column("rowid"), *columns))):
        for name, value, is_right in zip(names, values, checks, strict=True):
            if not is_right(value):
                found = "..." if "hash" in name else ascii(value[:40] if isinstance(value, str | bytes) else value)
                raise _wrong(file, table.name, row_id, Bilingual(f"{name} is {found}", f"{name} 是 {found}"))
        if table.name == "accounts" and values[names.index("name_key")] != name_key(values[names.index("name")]):
            raise _wrong(file, table.name, row_id, Bilingual("name_key is not that of its name", "name_key 与 name 不符"))


def _check_of(column: Column[Any]) -> Check:
    """Whether a value of a column is one that the service writes."""
    check = VALUES.get(f"{column.table.name}.{column.name}") or VALUES.get(column.name) or _of_type(column)
    return (lambda value: value is None or check(value)) if column.nullable else check


def _of_type(column: Column[Any]) -> Check:
    if isinstance(column.type, Boolean):
        return partial(_is_number, most=1)
    if isinstance(column.type, Integer):
        return partial(_is_number, most=MAX_NUMBER)
    if isinstance(column.type, Float):
        return _is_time
    return partial(_is_text, most=MAX_LONG if isinstance(column.type, Text) else MAX_SHORT)


def _is_number(value: Any, most: int, least: int = 0) -> bool:
    return isinstance(value, int) and least <= value <= most


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value <= MAX_TIME


def _is_text(value: Any, most: int) -> bool:
    return isinstance(value, str) and len(value) <= most and "\0" not in value


def _is_model(value: Any) -> bool:
    return _is_text(value, MAX_SHORT) and value != ""


def _is_name(value: Any) -> bool:
    return _is_text(value, MAX_SHORT) and value != "" and value.isprintable()


def _has_form(value: Any, form: re.Pattern[str]) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None


def _is_one_of(value: Any, words: tuple[str, ...]) -> bool:
    return isinstance(value, str) and value in words


def _is_password_hash(value: Any) -> bool:
    found = PASSWORD_HASH.fullmatch(value) if isinstance(value, str) else None
    return found is not None and int(found[1]) <= MAX_HASH_KIB


def _are_models(value: Any) -> bool:
    try:
        return (
            _is_text(value, MAX_LONG) and isinstance(value, str) and value.startswith("[") and all(map(_is_model, models_of(value) or ()))
        )
    except (ValueError, TypeError, RecursionError):  # no JSON, or what is in it is no text
        return False


VALUES: Final[dict[str, Check]] = {
    "public_id": partial(_has_form, form=ID),
    "token_hash": partial(_has_form, form=DIGEST),
    "api_keys.hash": partial(_has_form, form=DIGEST),
    "api_keys.prefix": partial(_has_form, form=PREFIX),
    "day": partial(_has_form, form=DAY),
    "models": _are_models,
    "accounts.name": _is_name,
    "accounts.role": partial(_is_one_of, words=get_args(Role)),
    "accounts.seed": partial(_is_one_of, words=("admin", "guest")),
    "accounts.password_hash": _is_password_hash,
    "accounts.tokens_a_day": partial(_is_number, most=MAX_TOKENS),
    "accounts.concurrency": partial(_is_number, most=MAX_CONCURRENCY, least=1),
    "account_requests.name": _is_name,
    "account_requests.decision": partial(_is_one_of, words=("approved", "declined")),
    "messages.role": partial(_is_one_of, words=get_args(MessageRole)),
    "messages.state": partial(_is_one_of, words=get_args(MessageState)),
}
"""By column, or by column of a table: what its type does not say."""
RELATIONS: Final = (
    (
        "messages",
        Bilingual("it follows a later message, or one of another chat", "其上一条消息在它之后，或属于别的对话"),
        "SELECT m.id FROM messages m JOIN messages p ON m.parent_id = p.id WHERE p.id >= m.id OR p.chat_id <> m.chat_id LIMIT 1",
    ),
    (
        "chats",
        Bilingual("its owner is another than its account", "其 owner 与所属账号不符"),
        f"SELECT id FROM chats WHERE session_id IS NULL AND owner <> '{ACCOUNT_OWNER}' || account_id LIMIT 1",
    ),
    (
        "counters",
        Bilingual(f"the row {REVOCATIONS} is missing", f"缺少 {REVOCATIONS} 行"),
        f"SELECT NULL WHERE NOT EXISTS (SELECT 1 FROM counters WHERE name = '{REVOCATIONS}')",
    ),
)
"""Table, what is wrong, and a query for a row of which it is."""


def _wrong(file: Path, table: str, row: int | None, what: Bilingual) -> StoreError:
    at = Bilingual("", "") if row is None else Bilingual(f", row {row}", f" 第 {row} 行")
    return StoreError(
        "unavailable",
        Bilingual(
            f"{file}: table {table}{at.english}: {what.english}, which the service never writes. Give another backup.",
            f"{file}：表 {table}{at.chinese}：{what.chinese}，本服务不会写入这样的内容。请换一个备份。",
        ),
    )
