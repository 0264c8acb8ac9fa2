import os
from pathlib import Path

import pytest

from imprint.serve.store import private_folder
from imprint.serve.store.database import FILE_NAME, Database
from imprint.serve.store.errors import StoreError
from imprint.serve.store.restore import restore

pytestmark = pytest.mark.skipif(os.name == "nt", reason="permissions of Windows")


def test_a_fresh_folder_and_its_files_are_its_owner_s_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        database = Database(tmp_path / "data")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()} == {0o600}
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    database.close()


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o2770, 0o702])
def test_a_folder_into_which_others_may_write_is_refused_with_the_command_that_mends_it(tmp_path: Path, mode: int) -> None:
    backup = tmp_path / "backup.db"
    Database(tmp_path / "mine").backup(backup)
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(mode)
    for open_it in (lambda: Database(folder), lambda: restore(backup, folder)):
        with pytest.raises(StoreError, match="other users of this machine may write into it") as refused:
            open_it()
        assert f"`chmod 700 {folder}`" in refused.value.message.english
        assert f"`chmod 700 {folder}`" in refused.value.message.chinese
    assert list(folder.iterdir()) == []
    folder.chmod(0o755)  # who may only read it sees names of files
    Database(folder).close()


def test_whoever_shares_a_folder_of_root_is_told_to_own_it_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = tmp_path.stat().st_uid
    tmp_path.chmod(0o2770)
    monkeypatch.setattr(private_folder, "trusted_users", lambda: frozenset((owner,)))
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)
    with pytest.raises(StoreError, match="other users of this machine may write into it") as refused:
        Database(tmp_path)
    assert f"`sudo chown $(id -un) {tmp_path}; chmod 700 {tmp_path}`" in refused.value.message.english


def test_a_folder_and_a_database_of_another_user_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    Database(folder).close()
    monkeypatch.setattr(private_folder, "trusted_users", lambda: frozenset((-1,)))
    with pytest.raises(StoreError, match="belongs to another user"):
        Database(folder)
    monkeypatch.setattr(private_folder, "_refuse_folder", lambda _: None)
    with pytest.raises(StoreError, match=rf"{FILE_NAME}: another user of this machine may have written it"):
        Database(folder)


@pytest.mark.parametrize("ending", private_folder.COMPANIONS)
@pytest.mark.parametrize("how", ["shared", "link"])
def test_a_log_that_others_may_have_written_never_becomes_a_part_of_the_database(tmp_path: Path, ending: str, how: str) -> None:
    Database(tmp_path).close()
    planted = tmp_path / f"{FILE_NAME}{ending}"
    if how == "shared":
        planted.write_bytes(b"planted")
        planted.chmod(0o666)
    else:
        planted.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="Move it away"):
        Database(tmp_path)
    planted.unlink()
    Database(tmp_path).close()


def test_behind_a_link_the_folder_to_which_it_leads_is_looked_at(tmp_path: Path) -> None:
    real, folder = tmp_path / "real", tmp_path / "data"
    Database(real).close()
    folder.mkdir(mode=0o700)
    (folder / FILE_NAME).symlink_to(real / FILE_NAME)
    real.chmod(0o777)
    with pytest.raises(StoreError, match=r"real: other users of this machine"):
        Database(folder)
