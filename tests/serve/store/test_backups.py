import shutil
import sqlite3
from typing import NamedTuple

import pytest

from imprint.serve.store import COMMAND_LINE, Store, StoreError
from imprint.serve.store.backups import MOST, RESERVE_BYTES
from tests.serve.stores import user


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_backup_is_whole_and_in_the_audit_log(store: Store) -> None:
    user(store, "kept")
    name = store.backups.write(COMMAND_LINE)
    copy = sqlite3.connect(store.folder / "backups" / name)
    assert copy.execute("SELECT count(*) FROM accounts WHERE name = 'kept'").fetchone() == (1,)
    copy.close()
    assert [(entry.action, entry.detail) for entry in store.audit.list(limit=1)] == [("backup", name)]


def test_there_are_few_backups_and_none_is_deleted_for_another(store: Store) -> None:
    names = [store.backups.write(COMMAND_LINE) for _ in range(MOST)]
    with pytest.raises(StoreError, match=f"there are {MOST} backups in backups/ of the data already") as refused:
        store.backups.write(COMMAND_LINE)
    assert refused.value.kind == "conflict"
    files = store.folder / "backups"
    assert {file.name for file in files.iterdir()} == set(names)
    (files / names[0]).unlink()
    assert store.backups.write(COMMAND_LINE)


def test_a_backup_leaves_a_part_of_the_disk_free(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    size = vars(store)["_database"].bytes_on_disk()
    assert size >= sum(file.stat().st_size for file in store.folder.glob("service.db"))
    free = RESERVE_BYTES + size - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: Usage(free, 0, free))
    with pytest.raises(StoreError, match="less than 1,024 MiB of the disk would be free"):
        store.backups.write(COMMAND_LINE)
    monkeypatch.undo()
    assert shutil.disk_usage(store.folder).free > RESERVE_BYTES, "the tests need some room"
    assert store.backups.write(COMMAND_LINE)
