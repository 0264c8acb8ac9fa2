import os
import stat
import threading
import time
from pathlib import Path

import pytest

from imprint.files import held
from imprint.files.atomic import TEMPORARY_SUFFIX, atomic_file, atomic_folder, remove_leftovers, write_text
from imprint.messages import UserError


def test_a_folder_that_another_one_writes_is_not_mixed_with_a_second_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with atomic_folder(out) as first:
        (first / "weights").write_text("first")
        with pytest.raises(UserError, match=r"out: another process is writing it\. Wait for it"), atomic_folder(out) as second:
            (second / "config").write_text("second")
        remove_leftovers(tmp_path)
        assert (first / "weights").read_text() == "first"
    assert os.listdir(out) == ["weights"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_that_another_one_writes_is_not_mixed_with_a_second_one(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    with atomic_file(out) as first:
        first.write_text("first")
        with pytest.raises(UserError, match=r"rows\.jsonl: another process is writing it"), atomic_file(out) as second:
            second.write_text("second")
    assert (out.read_text(), os.listdir(tmp_path)) == ("first", ["rows.jsonl"])


def test_texts_that_several_write_at_once_are_each_complete(tmp_path: Path) -> None:
    path, problems = tmp_path / "report.html", list[Exception]()

    def write(letter: str) -> None:
        try:
            for _ in range(20):
                write_text(path, letter * 1000)
        except Exception as error:
            problems.append(error)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert problems == []
    assert len(set(path.read_text())) == 1
    assert len(path.read_text()) == 1000
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_private_file_is_private_from_its_first_moment(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with atomic_file(tmp_path / "backup", mode=held.PRIVATE_MODE) as part:
            assert stat.S_IMODE(part.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "backup").stat().st_mode) == 0o600


def test_a_text_waits_for_its_writer_only_so_long(tmp_path: Path) -> None:
    start = time.monotonic()
    part = tmp_path / "a"
    with (
        held.held_file(part, tmp_path / "b"),
        pytest.raises(UserError, match="b: another process is writing it"),
        held.held_file(part, tmp_path / "b", wait_seconds=0.05),
    ):
        pass
    assert 0.05 <= time.monotonic() - start < 5


@pytest.mark.parametrize("kind", ["file", "folder", "link", "pipe", "hard link"])
def test_what_is_left_under_the_temporary_name_is_removed_and_not_written_through(kind: str, tmp_path: Path) -> None:
    other, left = tmp_path / "other", tmp_path / f".out{TEMPORARY_SUFFIX}"
    other.write_text("not ours")
    match kind:
        case "file":
            left.write_text("half")
        case "folder":
            (left / "deep").mkdir(parents=True)
        case "link":
            left.symlink_to(other)
        case "pipe":
            os.mkfifo(left)
        case _:
            left.hardlink_to(other)
    write_text(tmp_path / "out", "new")
    assert ((tmp_path / "out").read_text(), other.read_text()) == ("new", "not ours")
    assert sorted(os.listdir(tmp_path)) == ["other", "out"]


def test_the_lock_ends_with_its_holder(tmp_path: Path) -> None:
    left = tmp_path / f".out{TEMPORARY_SUFFIX}"
    if not (child := os.fork()):
        handle = os.open(left, os.O_CREAT | os.O_RDWR)
        held.lock(handle)
        os._exit(0)
    os.waitpid(child, 0)
    with atomic_folder(tmp_path / "out") as part:
        (part / "a").write_text("1")
    assert os.listdir(tmp_path) == ["out"]
