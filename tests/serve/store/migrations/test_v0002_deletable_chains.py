import sqlite3
from contextlib import closing
from pathlib import Path

from imprint.serve.store import COMMAND_LINE, restore
from tests.serve.store.older import make_older_database
from tests.serve.stores import HOME, NOON, open_store

LENGTH = 1100
"""Messages of one branch: more than the 1,000 levels of a cascade that SQLite allows."""
MESSAGE = "INSERT INTO messages VALUES (?, ?, ?, ?, 'user', ?, NULL, 'done', NULL, 0, 0, NULL, NULL, 0)"


def older_with_chains(folder: Path) -> None:
    """A database of schema 0001, in which the account 小明 and a guest have each a chat of one long branch."""
    make_older_database(folder, "0001")
    with open_store(folder.with_name("made"), now=lambda: NOON) as store:
        guest = store.sessions.guest(HOME)
        account = store.accounts.create("小明", actor=COMMAND_LINE).account
        store.chats.create(guest.principal)
    with closing(sqlite3.connect(folder / "service.db")) as older, older:
        older.execute("ATTACH ? AS made", (str(folder.with_name("made") / "service.db"),))
        for table in ("accounts", "sessions", "chats"):
            older.execute(f"INSERT INTO main.{table} SELECT * FROM made.{table}")
        older.execute(f"INSERT INTO chats VALUES (2, '{2:032x}', 'account:{account.id}', {account.id}, NULL, '', 0, 0)")
        for chat in (1, 2):
            for number in range(1, LENGTH + 1):
                row = chat * LENGTH + number
                older.execute(MESSAGE, (row, f"{row:032x}", chat, None if number == 1 else row - 1, f"{number}"))


def test_chats_of_an_older_database_stay_and_can_be_deleted_however_long_they_are(tmp_path: Path) -> None:
    older_with_chains(tmp_path / "data")
    with open_store(tmp_path / "data") as store, closing(sqlite3.connect(tmp_path / "data" / "service.db")) as connection:
        rows = connection.execute("SELECT id, parent_id, text FROM messages ORDER BY id").fetchall()
        expected = [(chat * LENGTH + number, number) for chat in (1, 2) for number in range(1, LENGTH + 1)]
        assert rows == [(row, None if number == 1 else row - 1, f"{number}") for row, number in expected]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        store.accounts.delete(store.accounts.named("小明").id, COMMAND_LINE)
        store.settings.set_guests("off", COMMAND_LINE)
        assert connection.execute("SELECT count(*) FROM messages").fetchone() == (0,)


def test_a_backup_of_an_older_database_is_restored_however_long_a_guests_chat_is(tmp_path: Path) -> None:
    older_with_chains(tmp_path / "data")
    restore(tmp_path / "data" / "service.db", tmp_path / "new")
    with open_store(tmp_path / "new"), closing(sqlite3.connect(tmp_path / "new" / "service.db")) as connection:
        assert connection.execute("SELECT chat_id, count(*) FROM messages GROUP BY chat_id").fetchall() == [(2, LENGTH)]
