from pathlib import Path

import pytest

from imprint.loading.hub.cache import HubCache, check_space
from imprint.loading.hub.files import HubFile
from imprint.loading.hub.name import HubName
from imprint.messages import UserError
from tests.hubserver import COMMIT, NEXT_COMMIT

FILE = HubFile("config.json", 2, "a" * 40)


@pytest.fixture
def cache(tmp_path: Path) -> HubCache:
    cache = HubCache(tmp_path, "a/b")
    cache.blob(FILE).parent.mkdir(parents=True)
    cache.blob(FILE).write_bytes(b"{}")
    return cache


def test_a_commit_is_complete_once_its_record_and_all_its_files_are_there(cache: HubCache) -> None:
    assert not cache.is_complete(COMMIT)
    assert not cache.lacks(COMMIT, FILE)  # another commit has it
    cache.link(COMMIT, FILE)
    assert not cache.is_complete(COMMIT)
    cache.record_complete(HubName("a/b"), COMMIT, [FILE])
    assert cache.is_complete(COMMIT)
    assert (cache.snapshot(COMMIT) / "config.json").read_bytes() == b"{}"
    cache.blob(FILE).write_bytes(b"{")
    assert not cache.is_complete(COMMIT)
    assert cache.lacks(COMMIT, FILE)


def test_a_branch_is_the_commit_that_was_fetched_last(cache: HubCache) -> None:
    assert cache.commit_of(HubName("a/b")) is None
    cache.write_ref(HubName("a/b"), COMMIT)
    cache.write_ref(HubName("a/b", "v1"), NEXT_COMMIT)
    cache.write_ref(HubName("a/b", COMMIT), COMMIT)
    assert (cache.commit_of(HubName("a/b")), cache.commit_of(HubName("a/b", "v1"))) == (COMMIT, NEXT_COMMIT)
    (cache.folder / "refs" / "main").write_text("../../etc", encoding="ascii")
    assert cache.commit_of(HubName("a/b")) is None


def test_where_a_disk_has_no_links_the_file_is_moved(cache: HubCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(Path, "symlink_to", refuse)
    cache.link(COMMIT, FILE)
    assert not (cache.snapshot(COMMIT) / "config.json").is_symlink()
    assert not cache.lacks(COMMIT, FILE)


def test_a_partial_file_counts_as_room_that_is_taken_already(cache: HubCache, monkeypatch: pytest.MonkeyPatch) -> None:
    file = HubFile("model.safetensors", 2**20, "b" * 64)
    monkeypatch.setattr("imprint.loading.hub.cache.shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**26 + 2**19}))
    with pytest.raises(UserError, match=r"0\.00 GiB are to be downloaded into .*, where 0\.06 GiB are free"):
        check_space(cache, [file])
    cache.partial(file).write_bytes(b"x" * 2**19)
    check_space(cache, [file])
    assert not cache.is_usable(COMMIT)
