import ast
import os
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from imprint.serve.store import restore
from imprint.serve.store.database import Database
from imprint.serve.store.errors import StoreError
from imprint.serve.store.sqlite import check, connect, copy, error_of, shorten_log
from imprint.serve.store.tables import SETTINGS
from tests.serve.stores import HOME, keep_question, open_store, user

STORE = Path(__file__).parents[3] / "imprint" / "serve" / "store"
RUNS_SQL = {"execute", "exec_driver_sql", "executescript", "executemany", "text"}


def test_no_sql_is_put_together_from_texts() -> None:
    """What runs SQL takes a literal, or a query that SQLAlchemy builds."""
    built = [
        f"{path.name}:{node.lineno}"
        for path in STORE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        if (node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")) in RUNS_SQL
        if any(isinstance(part, ast.JoinedStr | ast.BinOp | ast.Mod) for argument in node.args[:1] for part in [argument])
    ]
    assert built == []


def test_many_may_open_a_new_file_at_once(tmp_path: Path) -> None:
    opened = list[object]()

    def first_read(file: Path, barrier: threading.Barrier) -> None:
        engine = connect(file, 5.0)
        barrier.wait()
        with closing(engine.raw_connection()) as connection:
            opened.append(connection.cursor().execute("PRAGMA journal_mode").fetchone()[0])
        engine.dispose()

    for number in range(30):
        barrier = threading.Barrier(8)
        threads = [threading.Thread(target=first_read, args=(tmp_path / f"{number}.db", barrier)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert opened == ["wal"] * 240


def test_a_log_that_the_disk_does_not_take_is_left_and_said(caplog: pytest.LogCaptureFixture) -> None:
    connection = MagicMock(**{"cursor.return_value.execute.side_effect": sqlite3.OperationalError("disk I/O error")})

    shorten_log(MagicMock(**{"raw_connection.return_value": connection}))

    assert "the log of the database cannot be moved into it" in caplog.text
    connection.close.assert_called_once()


def test_a_connection_is_set_up_to_survive_kills_and_other_processes(tmp_path: Path) -> None:
    database = Database(tmp_path, busy_seconds=3.0)
    names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "secure_delete")
    with database.reading() as connection:
        found = [connection.exec_driver_sql("PRAGMA " + name).scalar() for name in names]
    assert found == ["wal", 1, 1, 3000, 1]
    database.close()


def test_a_copy_is_private_from_the_moment_at_which_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Database(tmp_path / "data").close()
    modes: list[tuple[str, int]] = []
    opened = os.open

    def watched(path: str | Path, flags: int, *mode: int) -> int:
        handle = opened(path, flags, *mode)
        modes.append((Path(path).name, stat.S_IMODE(os.fstat(handle).st_mode)))
        return handle

    before = os.umask(0o022)
    try:
        monkeypatch.setattr(os, "open", watched)
        copy(tmp_path / "data" / "service.db", tmp_path / "copy.db")
    finally:
        os.umask(before)
    assert [mode for name, mode in modes if "copy.db" in name] == [0o600] * sum("copy.db" in name for name, _ in modes)
    assert any("copy.db" in name for name, _ in modes)


def test_only_their_owner_reads_the_database_and_its_copies(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    database = Database(folder)
    copy(folder / "service.db", tmp_path / "copy.db")
    files = [*folder.glob("service.db*"), tmp_path / "copy.db"]
    assert {file.name for file in files} >= {"service.db", "service.db-wal", "copy.db"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    database.close()


def test_a_copy_is_of_one_moment_and_has_no_part_of_an_open_transaction(tmp_path: Path) -> None:
    database = Database(tmp_path)
    with database.writing() as connection:
        connection.execute(SETTINGS.insert().values(name="a", value="1"))
    with database.writing() as connection:
        connection.execute(SETTINGS.insert().values(name="b", value="2"))
        database.backup(tmp_path / "copy.db")
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copied:
        assert copied.execute("SELECT name FROM settings").fetchall() == [("a",)]
        assert copied.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert not list(tmp_path.glob("*.part"))
    database.close()


def test_a_deleted_chat_is_in_no_file_and_no_copy(tmp_path: Path) -> None:
    data, mark = tmp_path / "data", b"never to be read again"
    with open_store(data) as store:
        store.start_serving()
        owners = [user(store), store.sessions.guest(HOME).principal]
        chats = [store.chats.create(owner) for owner in owners]
        for owner, chat in zip(owners, chats, strict=True):
            for _ in range(20):
                keep_question(store, owner, chat.id, mark.decode() * 300)
        store.backup(tmp_path / "before.db")
        for owner, chat in zip(owners, chats, strict=True):
            store.chats.delete(owner, chat.id)
        store.tidy()
        assert [file.name for file in data.iterdir() if mark in file.read_bytes()] == []
        store.backup(tmp_path / "after.db")
    assert (tmp_path / "before.db").read_bytes().count(mark) >= 2 * 20 * 290  # some stand across two pages
    assert mark not in (tmp_path / "after.db").read_bytes()
    with closing(sqlite3.connect(data / "service.db")) as old:  # as versions before 2026-11-30 did
        old.executescript("PRAGMA secure_delete = OFF; CREATE TABLE t (a); INSERT INTO t VALUES (hex(zeroblob(9000))); DROP TABLE t")
    with open_store(data) as store:
        store.backup(tmp_path / "compact.db")
    assert b"0" * 9000 not in (tmp_path / "compact.db").read_bytes()


def test_the_chats_of_guests_in_a_backup_are_not_in_the_restored_database(tmp_path: Path) -> None:
    with open_store(tmp_path / "data") as store:
        guest = store.sessions.guest(HOME).principal
        keep_question(store, guest, store.chats.create(guest).id, "mine alone" * 2000)
        store.backup(tmp_path / "backup.db")
    restore(tmp_path / "backup.db", tmp_path / "new")
    assert b"mine alone" not in (tmp_path / "new" / "service.db").read_bytes()


def test_a_file_that_is_no_database_of_ours_or_damaged_is_told(tmp_path: Path) -> None:
    Database(tmp_path).close()
    check(tmp_path / "service.db")
    whole = bytearray((tmp_path / "service.db").read_bytes())
    whole[4096:12288] = b"\xaa" * 8192
    for name, content in (("text.db", b"hello" * 2000), ("damaged.db", bytes(whole)), ("empty.db", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StoreError, match=rf"{name}: this is no database of the service"):
            check(tmp_path / name)


def test_errors_of_the_database_say_what_to_do_and_others_stay_ours(tmp_path: Path) -> None:
    def kind(name: str) -> str | None:
        error = sqlite3.OperationalError("x")
        error.sqlite_errorname = name
        said = error_of(error, tmp_path)
        return None if said is None else said.kind

    assert {kind(f"SQLITE_{name}") for name in ("BUSY", "BUSY_SNAPSHOT", "LOCKED", "PROTOCOL")} == {"busy"}
    assert {kind(f"SQLITE_{name}") for name in ("FULL", "READONLY_DBMOVED", "CANTOPEN", "IOERR_WRITE", "CORRUPT", "NOTADB")} == {
        "unavailable"
    }
    assert kind("SQLITE_CONSTRAINT_UNIQUE") is None
    assert error_of(None, tmp_path) is None
