from pathlib import Path

import pytest
from sqlalchemy import text

from imprint.serve.store import schema
from imprint.serve.store.database import Database
from imprint.serve.store.errors import StoreError
from imprint.serve.store.schema import newest_revision, refuse_unknown_schema, revision_of

SECOND = """
import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade():
    op.add_column("chats", sa.Column("colour", sa.Text()))
"""


@pytest.fixture
def newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of migrations with one more than this program has."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    for file in schema.MIGRATIONS.glob("v*.py"):
        (folder / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "v0003_colours.py").write_text(SECOND, encoding="utf-8")
    return folder


def test_an_empty_database_gets_the_newest_schema(tmp_path: Path) -> None:
    database = Database(tmp_path)
    with database.reading() as connection:
        assert revision_of(connection) == newest_revision()
    database.close()


def test_an_older_schema_is_brought_up_to_date_after_a_copy_was_kept(tmp_path: Path, newer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Database(tmp_path).close()
    monkeypatch.setattr(schema, "MIGRATIONS", newer)
    database = Database(tmp_path)
    with database.reading() as connection:
        assert revision_of(connection) == "0003"
        assert connection.execute(text("SELECT colour FROM chats")).all() == []
    database.close()
    monkeypatch.undo()
    kept = tmp_path / "old"
    kept.mkdir(mode=0o700)
    (tmp_path / "before-0003.db").rename(kept / "service.db")
    Database(kept).close()  # it is whole, and as it was


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, newer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Database(tmp_path).close()
    broken = newer / "v0003_colours.py"
    broken.write_text(f"{broken.read_text(encoding='utf-8')}    raise RuntimeError('no power')\n", encoding="utf-8")
    monkeypatch.setattr(schema, "MIGRATIONS", newer)
    with pytest.raises(RuntimeError, match="no power"):
        Database(tmp_path)
    monkeypatch.undo()
    database = Database(tmp_path)
    with database.reading() as connection:
        columns = [row[1] for row in connection.execute(text("PRAGMA table_info(chats)"))]
    assert "colour" not in columns
    database.close()


def test_a_newer_schema_is_refused_in_a_sentence_and_stays_as_it_is(tmp_path: Path, newer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", newer)
    Database(tmp_path).close()
    monkeypatch.undo()
    before = (tmp_path / "service.db").read_bytes()
    with pytest.raises(
        StoreError, match=r"service\.db: was written by a newer Imprint \(schema 0003; this one knows up to 0002\)"
    ) as refused:
        Database(tmp_path)
    assert refused.value.kind == "unavailable"
    assert "由更新版本的 Imprint 写入" in str(refused.value)
    assert (tmp_path / "service.db").read_bytes() == before


def test_an_unknown_number_is_refused_and_a_known_one_is_not(tmp_path: Path) -> None:
    refuse_unknown_schema(None, tmp_path)
    refuse_unknown_schema(newest_revision(), tmp_path)
    with pytest.raises(StoreError, match="restore a backup made by this one with `imprint user restore FILE`"):
        refuse_unknown_schema("9999", tmp_path / "service.db")
    (tmp_path / "before-9999.db").write_bytes(b"")
    with pytest.raises(StoreError, match=rf"restore the copy that the upgrade kept with `imprint user restore {tmp_path}/before-9999\.db`"):
        refuse_unknown_schema("9999", tmp_path / "service.db")
