import shutil
import sqlite3
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from imprint.messages import UserError
from imprint.serve.store import COMMAND_LINE, StoreError, restore, sqlite
from imprint.serve.store.database import Database
from tests.bounded import cpu_time
from tests.serve.stores import HOME, PASSWORD, keep_question, open_store, user


def test_a_backup_that_was_made_while_others_wrote_restores(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with open_store(data) as store:
        store.start_serving()
        me = user(store)
        chat = store.chats.create(me, "门票")
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                keep_question(store, me, chat.id, "before or after")

        writers = [threading.Thread(target=write) for _ in range(2)]
        for writer in writers:
            writer.start()
        for number in range(3):
            store.backup(tmp_path / f"{number}.db")
        stop.set()
        for writer in writers:
            writer.join()
        last = len(store.chats.messages(me, chat.id))
        store.accounts.delete(me.account_id, COMMAND_LINE)
    kept = restore(tmp_path / "2.db", data)
    assert kept == data / "before-restore.db"
    with open_store(data) as store:
        assert store.first_password is None
        again = store.sessions.login("小明", PASSWORD, HOME).principal
        assert 0 < len(store.chats.messages(again, chat.id)) <= last
    with closing(sqlite3.connect(kept)) as old:
        assert old.execute("SELECT count(*) FROM accounts WHERE name = '小明'").fetchone() == (0,)


def test_sessions_that_were_ended_since_do_not_come_back(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with open_store(data) as store:
        user(store)
        guest = store.sessions.guest(HOME)
        keep_question(store, guest.principal, store.chats.create(guest.principal).id, "x")
        token = store.sessions.login("小明", PASSWORD, HOME).token
        key = store.keys.create(store.accounts.named("小明").id, actor=COMMAND_LINE).key
        store.backup(tmp_path / "backup.db")
        store.sessions.end(token)
    restore(tmp_path / "backup.db", data)
    with open_store(data) as store:
        assert store.sessions.of(token) is None
        assert store.sessions.of(guest.token) is None
        assert store.keys.of(key) is not None
        assert store.sessions.login("小明", PASSWORD, HOME)
    with closing(sqlite3.connect(data / "service.db")) as connection:
        assert connection.execute("SELECT count(*) FROM chats").fetchone() == (0,)


def test_a_backup_goes_into_a_new_folder_and_in_place_of_a_damaged_database(tmp_path: Path) -> None:
    with open_store(tmp_path / "data") as store:
        user(store)
        store.backup(tmp_path / "backup.db")
    assert restore(tmp_path / "backup.db", tmp_path / "new") is None
    (tmp_path / "data" / "service.db").write_bytes(b"damaged " * 1000)
    restore(tmp_path / "backup.db", tmp_path / "data")
    for folder in ("new", "data"):
        with open_store(tmp_path / folder) as store:
            assert store.sessions.login("小明", PASSWORD, HOME)


def test_a_restore_that_is_stopped_between_the_old_and_the_new_database_loses_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    with open_store(data) as store:
        user(store)
        store.backup(tmp_path / "backup.db")
    replace = Path.replace

    def stop_at_the_new(file: Path, target: Path) -> Path:
        if target.name == "service.db":
            raise KeyboardInterrupt
        return replace(file, target)

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(Path, "replace", stop_at_the_new)
        restore(tmp_path / "backup.db", data)
    with pytest.raises(StoreError, match="a restore was stopped before its end"):
        Database(data)
    assert restore(tmp_path / "backup.db", data) == data / "before-restore.db"
    for database in (data / "service.db", data / "before-restore.db"):
        database.replace(data / "service.db")
        with open_store(data) as store:
            assert store.sessions.login("小明", PASSWORD, HOME)


def test_a_database_is_not_replaced_while_another_program_reads_in_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, timeout=0.05))
    data = tmp_path / "data"
    with open_store(data) as store:
        store.backup(tmp_path / "backup.db")
        with closing(sqlite3.connect(data / "service.db")) as other:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM accounts").fetchone()
            user(store)  # is in the log alone as long as the other one reads
            with pytest.raises(StoreError, match="another program holds the database"):
                restore(tmp_path / "backup.db", data)
    assert not (data / ".restored.db").exists()
    with open_store(data) as store:
        assert store.sessions.login("小明", PASSWORD, HOME)
    assert restore(tmp_path / "backup.db", data) == data / "before-restore.db"


def test_the_log_of_the_old_database_never_meets_the_new_one(tmp_path: Path) -> None:
    with open_store(tmp_path / "other") as store:
        store.backup(tmp_path / "backup.db")
    store = open_store(tmp_path / "data")
    user(store)
    assert (tmp_path / "data" / "service.db-wal").stat().st_size > 0
    restore(tmp_path / "backup.db", tmp_path / "data")
    with pytest.raises(StoreError, match="deleted or replaced"):  # the process that still has the old one writes nothing more
        store.accounts.create("late", actor=COMMAND_LINE)
    store.close()
    with open_store(tmp_path / "data") as new:
        assert [account.name for account in new.accounts.list()] == ["admin", "guest"]
        with closing(sqlite3.connect(tmp_path / "data" / "service.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_backup_is_refused_while_a_service_runs(tmp_path: Path) -> None:
    with open_store(tmp_path / "data") as store:
        store.start_serving()
        store.backup(tmp_path / "backup.db")
        with pytest.raises(UserError, match="another service uses this folder"):
            restore(tmp_path / "backup.db", tmp_path / "data")


def test_what_is_no_backup_changes_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path / "data") as store:
        store.backup(tmp_path / "newer.db")
    with closing(sqlite3.connect(tmp_path / "newer.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    (tmp_path / "text.db").write_text("hello", encoding="utf-8")
    for name, message in (
        *(("missing.db", "there is no such file"), ("text.db", "damaged .file is not a database")),
        ("newer.db", "was written by a newer Imprint"),
    ):
        with pytest.raises(StoreError, match=message):
            restore(tmp_path / name, tmp_path / "data")
    open_store(tmp_path / "data").close()


def test_a_backup_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with open_store(tmp_path / "data") as store, pytest.raises(UserError, match=r"backup\.db: cannot be written"):
        store.backup(tmp_path / "file" / "backup.db")


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE alembic_version",
        "DELETE FROM alembic_version",
        "INSERT INTO alembic_version VALUES ('0001')",
        "UPDATE alembic_version SET version_num = '../../x'",
        "DROP TABLE messages",
        "ALTER TABLE accounts DROP COLUMN contact",
        "CREATE TRIGGER t AFTER INSERT ON audit BEGIN UPDATE accounts SET role = 'admin'; END",
        "CREATE VIEW v AS SELECT 1",
        "CREATE VIRTUAL TABLE v USING fts5(a)",
    ],
)
def test_a_backup_with_other_tables_or_a_trigger_is_refused(tmp_path: Path, backup: Path, change: str) -> None:
    changed = tmp_path / "changed.db"
    shutil.copy(backup, changed)
    with closing(sqlite3.connect(changed)) as connection, connection:
        connection.execute(change)
    with pytest.raises(StoreError, match="other tables"):
        restore(changed, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_tables_without_their_keys_are_refused(tmp_path: Path, backup: Path) -> None:
    for number, (column, other) in enumerate((("UNIQUE (name_key)", "CHECK (1)"), (" ON DELETE CASCADE", ""))):
        changed = tmp_path / f"{number}.db"
        shutil.copy(backup, changed)
        with closing(sqlite3.connect(changed)) as connection, connection:
            (sql,) = connection.execute("SELECT group_concat(sql, ';') FROM sqlite_master WHERE sql LIKE ?", (f"%{column}%",)).fetchone()
            tables = [one[0] for one in connection.execute("SELECT name FROM sqlite_master WHERE sql LIKE ?", (f"%{column}%",))]
            for table in tables:
                connection.execute(f"DROP TABLE {table}")
            connection.executescript(sql.replace(column, other))
        with pytest.raises(StoreError, match="other tables"):
            restore(changed, tmp_path / "data")


@pytest.mark.parametrize(
    ("made", "renamed"),
    [
        ("CREATE TRIGGER t AFTER INSERT ON sessions BEGIN UPDATE accounts SET role = 'admin'; END", "TRIGGER"),
        ("CREATE VIEW t AS SELECT 1", "VIEW"),
        ("CREATE TABLE t (a)", "TABLE"),
        ("CREATE INDEX t ON sessions (address)", "INDEX"),
    ],
)
def test_nothing_hides_behind_a_name_of_sqlites_own(tmp_path: Path, backup: Path, made: str, renamed: str) -> None:
    changed = tmp_path / "changed.db"
    shutil.copy(backup, changed)
    rename = (
        "UPDATE sqlite_master SET name = 'sqlite_t', tbl_name = iif(tbl_name = 't', 'sqlite_t', tbl_name), sql = replace(sql, ?, ?) "
        "WHERE name = 't'"
    )
    with closing(sqlite3.connect(changed)) as connection, connection:
        connection.execute(made)
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(rename, (f"{renamed} t", f"{renamed} sqlite_t"))
    with pytest.raises(StoreError, match="other tables"):
        restore(changed, tmp_path / "data")


def with_schema(backup: Path, changed: Path, name: str, ours: str, theirs: str) -> Path:
    """A copy of a backup in which the table or index of this name was made by a statement with other words."""
    shutil.copy(backup, changed)
    with closing(sqlite3.connect(changed)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        edit = "UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE name = ? AND instr(sql, ?)"
        assert connection.execute(edit, (ours, theirs, name, ours)).rowcount == 1
    return changed


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("disabled_at FLOAT", "disabled_at FLOAT DEFAULT 1"),
        ("UNIQUE (name_key)", "UNIQUE (name_key) ON CONFLICT REPLACE"),
        ("name_key VARCHAR(256) NOT NULL", "name_key VARCHAR(256) COLLATE NOCASE NOT NULL CHECK (name_key <> 'x')"),
    ],
)
def test_only_the_rows_of_a_backup_are_restored_not_the_rules_of_its_tables(tmp_path: Path, backup: Path, ours: str, theirs: str) -> None:
    changed = with_schema(backup, tmp_path / "changed.db", "accounts", ours, theirs)
    restore(changed, tmp_path / "data")
    restore(backup, tmp_path / "other")
    assert _schema(tmp_path / "data" / "service.db") == _schema(tmp_path / "other" / "service.db") == _schema(backup)


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("ix_sessions_account_id", "sessions (account_id)", "sessions (abs(account_id))"),
        ("ix_sessions_account_id", "sessions (account_id)", "sessions (account_id) WHERE abs(id)"),
        ("accounts", "disabled_at FLOAT", "disabled_at FLOAT, also GENERATED ALWAYS AS (id || name)"),
        ("accounts", "disabled_at FLOAT", "disabled_at FLOAT, also NOT NULL AS (abs(id))"),
        ("accounts", "disabled_at FLOAT", "disabled_at FLOAT AS (abs(id))"),
    ],
)
def test_nothing_that_a_backup_computes_is_computed(
    tmp_path: Path, backup: Path, monkeypatch: pytest.MonkeyPatch, name: str, ours: str, theirs: str
) -> None:
    """One call of one function may take days or gigabytes, and neither a bound of time nor Ctrl-C ends it."""
    changed = with_schema(backup, tmp_path / "changed.db", name, ours, theirs)
    checked: list[Path] = []
    monkeypatch.setattr(sqlite, "check", checked.append)
    with pytest.raises(StoreError, match="other tables"):
        restore(changed, tmp_path / "data")
    assert not checked


def test_a_list_of_tables_that_repeats_itself_without_end_is_refused_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "OPEN_SECONDS", 0.5)
    _write_endless_schema(tmp_path / "endless.db")
    with cpu_time(at_most=5), pytest.raises(StoreError, match="its list of tables takes too long"):
        restore(tmp_path / "endless.db", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def _write_endless_schema(file: Path, fan: int = 300) -> None:
    """A database of one table, before whose second row of the schema stand levels of pages, each of which names the next so many times."""
    with closing(sqlite3.connect(file)) as made:
        made.execute(sqlite.MARK)
        made.execute("CREATE TABLE one (name UNIQUE)")
        made.commit()
    content, header = file.read_bytes(), 100
    size = int.from_bytes(content[16:18], "big")
    pages, first = len(content) // size, content[:size]
    all_rows, one_row = bytearray(first), bytearray(first)
    for page, rows in ((all_rows, 2), (one_row, 1)):  # the row of the index was written last, so its cell is the second
        page[:8] = first[header : header + 8]
        page[3:5], page[8:12] = rows.to_bytes(2, "big"), first[header + 12 - 2 * rows : header + 12].ljust(4, b"\0")
    levels = [_interior([pages + 2 + level] * fan, size, 0) for level in range(4)]
    root = bytearray(_interior([pages + 1, pages + 6], size, header))
    root[:header] = first[:header]
    root[28:32] = (pages + 6).to_bytes(4, "big")
    file.write_bytes(b"".join((root, content[size:], all_rows, one_row, *levels)))


def _interior(children: list[int], size: int, header: int) -> bytes:
    """An inner page of a table with these children, as SQLite's file format has it."""
    page, end = bytearray(size), size
    for index, child in enumerate(children[:-1]):
        cell = child.to_bytes(4, "big") + bytes([1])
        end -= len(cell)
        page[end : end + len(cell)] = cell
        page[header + 12 + 2 * index : header + 14 + 2 * index] = end.to_bytes(2, "big")
    page[header], page[header + 3 : header + 5] = 5, (len(children) - 1).to_bytes(2, "big")
    page[header + 5 : header + 7], page[header + 8 : header + 12] = end.to_bytes(2, "big"), children[-1].to_bytes(4, "big")
    return bytes(page)


def test_the_id_of_a_deleted_account_stays_its_own_after_a_restore(tmp_path: Path) -> None:
    with open_store(tmp_path / "data") as store:
        deleted = user(store).account_id
        store.accounts.delete(deleted, COMMAND_LINE)
        store.backup(tmp_path / "backup.db")
    restore(tmp_path / "backup.db", tmp_path / "new")
    with open_store(tmp_path / "new") as store:
        assert user(store).account_id == deleted + 1


def test_a_backup_in_another_encoding_is_refused(tmp_path: Path, backup: Path) -> None:
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(backup)) as old, closing(sqlite3.connect(other)) as connection:
        connection.execute("PRAGMA encoding = 'UTF-16le'")
        connection.executescript("\n".join(old.iterdump()))
        connection.execute(sqlite.MARK)
    with pytest.raises(StoreError, match="other tables"):
        restore(other, tmp_path / "data")


def _schema(file: Path) -> list[tuple[str, str | None]]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backup")
    with open_store(folder / "data") as store:
        store.backup(folder / "backup.db")
    return folder / "backup.db"


def test_the_log_of_a_database_that_was_deleted_in_use_does_no_harm_to_the_restored_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with open_store(data) as store:
        user(store, "before")
        store.backup(tmp_path / "backup.db")
        for number in range(20):
            user(store, f"later-{number}")
        log = (data / "service.db-wal").read_bytes()
    (data / "service.db").unlink()
    (data / "service.db-wal").write_bytes(log)
    restore(tmp_path / "backup.db", data)
    sqlite.check(data / "service.db")
    with open_store(data) as store:
        assert {account.name for account in store.accounts.list()} == {"admin", "guest", "before"}
