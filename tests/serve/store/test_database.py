import sqlite3
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from imprint.messages import Bilingual, UserError
from imprint.serve.store.database import FILE_NAME, Database, count_revocation
from imprint.serve.store.errors import StoreError, invalid
from imprint.serve.store.tables import SETTINGS


def test_what_a_block_wrote_is_kept_together_or_not_at_all(tmp_path: Path) -> None:
    database = Database(tmp_path)
    with pytest.raises(ValueError, match="stop"), database.writing() as connection:
        connection.execute(SETTINGS.insert().values(name="a", value="1"))
        raise ValueError("stop")
    with database.reading() as connection:
        assert connection.execute(select(SETTINGS)).all() == []
    database.close()


def test_calls_that_share_a_transaction_see_each_other_and_are_all_kept(tmp_path: Path) -> None:
    database = Database(tmp_path)

    def write(name: str) -> int:
        with database.writing() as connection:
            connection.execute(SETTINGS.insert().values(name=name, value=""))
        with database.reading() as connection:
            return connection.execute(select(func.count()).select_from(SETTINGS)).scalar_one()

    told = database.batch([partial(write, name) for name in "abc"], writes=True)
    assert [outcome.value for outcome in told] == [1, 2, 3]
    database.close()
    again = Database(tmp_path)
    with again.reading() as connection:
        assert connection.execute(select(SETTINGS.c.name)).scalars().all() == ["a", "b", "c"]
    again.close()


def test_of_calls_that_share_a_transaction_one_fails_without_the_others(tmp_path: Path) -> None:
    database = Database(tmp_path)

    def write(name: str) -> str:
        with database.writing() as connection:
            connection.execute(SETTINGS.insert().values(name=name, value=""))
            if name == "b":
                raise ValueError("stop")
        return name

    told = database.batch([partial(write, name) for name in "abca"], writes=True)
    assert [outcome.value for outcome in told] == ["a", None, "c", None]
    assert str(told[1].error) == "stop"
    assert isinstance(told[3].error, DBAPIError)  # there is one of this name already
    with database.reading() as connection:
        assert connection.execute(select(SETTINGS.c.name)).scalars().all() == ["a", "c"]
    database.close()


def test_calls_that_read_together_are_answered_while_another_program_writes(tmp_path: Path) -> None:
    database = Database(tmp_path, busy_seconds=0.2)

    def count() -> int:
        with database.reading() as connection:
            return connection.execute(select(func.count()).select_from(SETTINGS)).scalar_one()

    with closing(sqlite3.connect(tmp_path / "service.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert [outcome.value for outcome in database.batch([count, count], writes=False)] == [0, 0]
        told = database.batch([count, count], writes=True)
        assert [outcome.error.kind for outcome in told if isinstance(outcome.error, StoreError)] == ["busy", "busy"]
        other.execute("COMMIT")
    database.close()


def test_a_refused_call_undoes_its_own_part_alone_and_no_other_is_made_again(tmp_path: Path) -> None:
    database, made = Database(tmp_path), list[str]()

    def write(name: str) -> None:
        made.append(name)
        with database.writing() as connection:
            connection.execute(SETTINGS.insert().values(name=name, value=""))
            if name == "b":
                raise invalid("no.", "否。")

    database.batch([partial(write, name) for name in "abc"], writes=True)
    assert made == ["a", "b", "c"]
    with database.reading() as connection:
        assert connection.execute(select(SETTINGS.c.name)).scalars().all() == ["a", "c"]
    database.close()


def test_when_something_was_used_is_written_behind_the_calls_and_nobody_waits_for_it(tmp_path: Path) -> None:
    database = Database(tmp_path, busy_seconds=5.0)

    def use(name: str) -> str:
        with database.reading():
            database.touch(SETTINGS.insert().values(name=name, value=""))
        return name

    with closing(sqlite3.connect(tmp_path / "service.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        assert [outcome.value for outcome in database.batch([partial(use, name) for name in "abc"], writes=False)] == ["a", "b", "c"]
        assert use("d") == "d"
        assert time.monotonic() - began < 2.0  # one wait alone would take five
        other.execute("COMMIT")
    database.batch([partial(use, name) for name in "ef"], writes=False)
    with database.reading() as connection:
        assert connection.execute(select(SETTINGS.c.name)).scalars().all() == ["e", "f"]
    database.close()


def test_many_threads_write_one_after_another(tmp_path: Path) -> None:
    database = Database(tmp_path)

    def write(thread: int) -> None:
        for number in range(10):
            with database.writing() as connection:
                count = connection.execute(select(func.count()).select_from(SETTINGS)).scalar_one()
                connection.execute(SETTINGS.insert().values(name=f"{thread}-{number}", value=str(count)))

    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading() as connection:
        values = connection.execute(select(SETTINGS.c.value)).scalars().all()
    assert sorted(map(int, values)) == list(range(80))
    database.close()


def test_a_lock_of_another_program_is_waited_for_and_then_told(tmp_path: Path) -> None:
    database = Database(tmp_path, busy_seconds=0.2)
    with closing(sqlite3.connect(tmp_path / "service.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(StoreError, match="another program holds the database") as refused, database.writing():
            pass
        assert (refused.value.kind, refused.value.retry_after) == ("busy", 2.0)
        assert 0.15 < time.monotonic() - began < 2.0
        with database.reading() as connection:  # readers do not wait
            assert connection.execute(select(SETTINGS)).all() == []
        other.execute("COMMIT")
    with database.writing() as connection:
        connection.execute(SETTINGS.insert().values(name="a", value="1"))
    database.close()


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_database_that_is_deleted_in_use_is_told_and_nothing_is_written_into_the_void(tmp_path: Path, how: str) -> None:
    database = Database(tmp_path)
    (tmp_path / "service.db").rename(tmp_path / "gone.db")
    if how == "replaced":
        (tmp_path / "service.db").write_bytes((tmp_path / "gone.db").read_bytes())
    for block in (database.reading, database.writing):
        with pytest.raises(StoreError, match=r"service\.db: was deleted or replaced while it was in use") as refused, block():
            pass
        assert refused.value.kind == "unavailable"
    with pytest.raises(StoreError, match="deleted or replaced"):
        database.backup(tmp_path / "copy.db")
    database.close()


def test_a_full_disk_is_told_and_reading_goes_on(tmp_path: Path) -> None:
    database = Database(tmp_path)

    def fill() -> None:
        with database.writing() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 60")
            connection.execute(SETTINGS.insert().values(name="big", value="x" * 1_000_000))

    with pytest.raises(StoreError, match="no space is left on the disk") as refused:
        fill()
    assert refused.value.kind == "unavailable"
    with database.reading() as connection:
        assert connection.execute(select(SETTINGS)).all() == []
    database.close()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match=r"data: cannot be written: permission is denied"):
        Database(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_database_of_another_program_and_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "service.db")) as other:
        other.execute("CREATE TABLE theirs (a)")
        other.commit()
    with pytest.raises(StoreError, match="is a database of another program"):
        Database(tmp_path)
    (tmp_path / "service.db").write_bytes(b"hello " * 1000)
    with pytest.raises(StoreError, match="this is no database"):
        Database(tmp_path)


def test_a_revocation_is_seen_by_every_process_in_the_transaction_of_its_cause(tmp_path: Path) -> None:
    one, other = Database(tmp_path), Database(tmp_path)
    before = other.revocations()
    with pytest.raises(ValueError, match="stop"), one.writing() as connection:
        count_revocation(connection)
        raise ValueError("stop")
    assert other.revocations() == before
    with one.writing() as connection:
        count_revocation(connection)
    assert other.revocations() == before + 1
    one.close()
    other.close()


def test_a_database_that_was_copied_here_becomes_its_owner_s_alone(tmp_path: Path) -> None:
    Database(tmp_path).close()
    file = tmp_path / FILE_NAME
    file.chmod(0o644)
    Database(tmp_path).close()
    assert file.stat().st_mode & 0o777 == 0o600
    for name in (f"{FILE_NAME}-wal", "service.lock"):
        with pytest.raises(StoreError, match="is the database itself"):
            Database(tmp_path).backup(tmp_path / "." / name)


def test_the_log_is_emptied_also_where_somebody_always_searches(tmp_path: Path) -> None:
    database, has_ended = Database(tmp_path), threading.Event()

    def search() -> None:
        while not has_ended.is_set():
            with database.reading_within(5, Bilingual("too long", "太久")) as connection:
                connection.execute(select(SETTINGS)).all()
                time.sleep(0.2)

    searches = [threading.Thread(target=search) for _ in range(2)]
    for number, thread in enumerate(searches):
        thread.start()
        time.sleep(0.1 * (1 - number))  # one begins while the other one goes on
    for number in range(50):
        with database.writing() as connection:
            connection.execute(SETTINGS.insert().values(name=str(number), value="x" * 10_000))
    assert database.log_bytes() > 500_000
    database.shorten_log()
    assert database.log_bytes() == 0
    has_ended.set()
    for thread in searches:
        thread.join()
    database.close()


def test_a_log_that_somebody_reads_without_an_end_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imprint.serve.store.database.SHORTEN_SECONDS", 0.2)
    database = Database(tmp_path)
    with database.reading() as connection:
        connection.execute(select(SETTINGS)).all()
        with database.writing() as other:
            other.execute(SETTINGS.insert().values(name="a", value="1"))
        database.shorten_log()
        assert database.log_bytes() > 0
    database.shorten_log()
    assert database.log_bytes() == 0
    database.close()
