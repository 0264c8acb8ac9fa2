from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from imprint.serve.store.database import Database
from imprint.serve.store.tables import METADATA


def test_the_migrations_make_the_tables_that_queries_are_built_of(tmp_path: Path) -> None:
    database = Database(tmp_path)
    with database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    database.close()
