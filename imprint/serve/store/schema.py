"""The version of the schema: migrations are numbered files, applied in one transaction; a newer schema is refused."""

from functools import cache
from pathlib import Path
from typing import Final

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from imprint.messages import Bilingual
from imprint.serve.store.errors import StoreError

MIGRATIONS: Final = Path(__file__).with_name("migrations")


def newest_revision() -> str:
    """The number of the newest migration that this program has, such as "0001"."""
    head = _script(MIGRATIONS).get_current_head()
    assert head is not None
    return head


def revision_of(connection: Connection) -> str | None:
    """The number of the last migration of a database; None if it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def migrate(connection: Connection, file: Path, wanted: str = "head") -> None:
    """Bring a database up to the newest schema, or to an older one, in the transaction of the connection, which the caller ends.

    `file` is the database. Raises StoreError, which names it, if a newer program has written it.
    """
    script, present = _script(MIGRATIONS), revision_of(connection)
    refuse_unknown_schema(present, file)
    context = MigrationContext.configure(
        connection, opts={"fn": lambda present, _: script._upgrade_revs(wanted, present), "transactional_ddl": True}
    )
    with Operations.context(context):
        context.run_migrations()


def refuse_unknown_schema(revision: str | None, file: Path) -> None:
    """Raise StoreError if no migration of this program has this number."""
    known = [one.revision for one in _script(MIGRATIONS).walk_revisions()]
    if revision is None or revision in known:
        return
    kept = file.with_name(f"before-{revision}.db")
    copy = str(kept) if kept.exists() else "FILE"
    which = (
        Bilingual("the copy that the upgrade kept", "升级时保留的副本")
        if kept.exists()
        else Bilingual("a backup made by this one", "本版本的备份")
    )
    raise StoreError(
        "unavailable",
        Bilingual(
            f"{file}: was written by a newer Imprint (schema {revision}; this one knows up to {max(known)}). Install that version "
            f"again, or restore {which.english} with `imprint user restore {copy}`.",
            f"{file}：由更新版本的 Imprint 写入（结构版本 {revision}，本程序最高到 {max(known)}）。请装回新版本，"
            f"或用 `imprint user restore {copy}` 恢复{which.chinese}。",
        ),
    )


@cache
def _script(folder: Path) -> ScriptDirectory:
    """The migrations of a folder, which are compiled once."""
    return ScriptDirectory(str(folder), version_locations=[str(folder)])
