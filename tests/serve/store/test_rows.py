import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from imprint.serve.store import COMMAND_LINE, StoreError, restore
from imprint.serve.store.chat_import import ImportedMessage
from tests.serve.stores import HOME, PASSWORD, begin_answer, keep_question, open_store, user


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE accounts SET role = 'root' WHERE id = 1", "table accounts, row 1: role is 'root'"),
        ("UPDATE accounts SET tokens_a_day = -1 WHERE id = 2", "table accounts, row 2: tokens_a_day is -1"),
        ("UPDATE accounts SET concurrency = 1000000000", "table accounts, row 1: concurrency is 1000000000"),
        ("UPDATE accounts SET name = 'a' || char(27) || '[31m' WHERE id = 2", r"table accounts, row 2: name is 'a\\x1b\[31m'"),
        ("UPDATE accounts SET name_key = 'x' WHERE id = 2", "table accounts, row 2: name_key is not that of its name"),
        ("UPDATE accounts SET models = '{}'", "table accounts, row 1: models is '{}'"),
        ("UPDATE accounts SET models = '[1]'", "table accounts, row 1: models"),
        ("UPDATE accounts SET created_at = 9e999", "table accounts, row 1: created_at is inf"),
        ("UPDATE accounts SET created_at = 253402300799.9999999", "table accounts, row 1: created_at is 253402300800"),
        ("UPDATE accounts SET contact = x'00'", "table accounts, row 1: contact is b"),
        ("UPDATE accounts SET contact = CAST(x'ff' AS TEXT)", "table accounts: it cannot be read, or has a text that is no UTF-8"),
        (
            "UPDATE accounts SET password_hash = '$argon2id$v=19$m=99999999,t=1,p=1$aaaaaaaaaaa$aaaaaaaaaaa'",
            "accounts, row 1: password_hash",
        ),
        ("UPDATE api_keys SET hash = 'secret'", "table api_keys, row 1: hash is \\.\\.\\., which"),
        ("UPDATE sessions SET token_hash = 'x' WHERE id = 1", "table sessions, row 1: token_hash"),
        ("UPDATE usage SET tokens = -5", "table usage, row 1: tokens is -5"),
        ("UPDATE messages SET text = 'a' || char(0)", r"table messages, row 1: text is 'a\\x00'"),
        ("UPDATE messages SET state = 'gone'", "table messages, row 1: state is 'gone'"),
        ("UPDATE messages SET parent_id = 2 WHERE id = 1", "table messages, row 1: it follows a later message"),
        ("UPDATE chats SET owner = 'account:1'", "table chats, row 1: its owner is another than its account"),
        ("DELETE FROM accounts WHERE id = 3", "belongs to a row of accounts that is not there"),
        ("DELETE FROM counters", "table counters: the row revocations is missing"),
    ],
)
def test_a_backup_with_what_the_service_never_writes_is_refused(tmp_path: Path, full: Path, change: str, message: str) -> None:
    changed = tmp_path / "changed.db"
    shutil.copy(full, changed)
    with closing(sqlite3.connect(changed)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        assert connection.execute(change).rowcount
        connection.execute("PRAGMA writable_schema = ON")  # the tables lose their checks, which else tell that the file is damaged
        for column in ("role", "state"):
            connection.execute("UPDATE sqlite_master SET sql = replace(sql, ?, ?)", (f"CHECK ({column}", f"CHECK (1 or {column}"))
    with pytest.raises(StoreError, match=message):
        restore(changed, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_backup_of_everything_the_service_writes_restores(tmp_path: Path, full: Path) -> None:
    restore(full, tmp_path / "data")
    with open_store(tmp_path / "data") as store:
        assert store.sessions.login("小明", PASSWORD, HOME)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup with rows in every table."""
    folder = tmp_path_factory.mktemp("full")
    with open_store(folder / "data") as store:
        me = user(store, models=frozenset({"base", "门票"}))
        store.keys.create(me.account_id, actor=COMMAND_LINE, models=frozenset({"a\u200bb"}), expires_at=4e9)
        store.requests.ask("ada", "ada@example.com\n\t", "因为", "testclient")
        store.quota.settle(store.quota.reserve(me, HOME, 7), 5)
        store.quota.reserve(me, HOME, 7)
        store.settings.set_guests("everywhere", COMMAND_LINE)
        chat = store.chats.create(me, "门票")
        question = keep_question(store, me, chat.id, "多少钱？\x1b\n")
        answer = begin_answer(store, me, chat.id, question)
        store.chats.finish(me, answer, "三十\0元。", state="error", finish="stop", new_tokens=3)
        with pytest.raises(StoreError, match="model"):
            store.chat_import.one(me, "", [ImportedMessage("1", None, "user", "", "a\0b", "done", None, 0, 0)])
        guest = store.sessions.guest(HOME).principal
        keep_question(store, guest, store.chats.create(guest).id, "x")
        store.backup(folder / "backup.db")
    return folder / "backup.db"
