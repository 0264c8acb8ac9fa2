import os
from pathlib import Path

import pytest

from imprint.files import scratch
from imprint.messages import Bilingual, UserError


def test_scratch_folders_of_killed_processes_are_removed_and_those_of_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"{scratch.SCRATCH_PREFIX}of_a_kil" / "logs").mkdir(parents=True)
    (tmp_path / f"{scratch.SCRATCH_PREFIX}linklink").symlink_to(tmp_path)
    with scratch.scratch_folder() as mine, scratch.scratch_folder() as other:
        assert mine.is_dir()
        assert other.is_dir()
        assert sorted(os.listdir(tmp_path)) == sorted([mine.name, other.name, f"{scratch.SCRATCH_PREFIX}linklink"])
    assert os.listdir(tmp_path) == [f"{scratch.SCRATCH_PREFIX}linklink"]


@pytest.mark.parametrize(
    "name", ["imprint-run", "imprint-training", "imprint-a_b_c_d_", "imprint-scratch-run", "imprint-scratch-", "imprint-main"]
)
def test_a_folder_that_the_user_has_named_among_the_temporary_files_is_kept(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / name).mkdir()
    (tmp_path / name / "log.jsonl").write_text("days of work")
    with scratch.scratch_folder():
        pass
    assert (tmp_path / name / "log.jsonl").read_text() == "days of work"


def test_a_folder_is_held_by_one_writer_and_removed_if_nothing_was_written(tmp_path: Path) -> None:
    busy = Bilingual("is in use", "正在使用")
    with scratch.locked_folder(tmp_path / "answers", busy):
        with pytest.raises(UserError, match="is in use"), scratch.locked_folder(tmp_path / "answers", busy):
            pass
        (tmp_path / "answers" / "a").write_text("1")
    with scratch.locked_folder(tmp_path / "answers", busy), scratch.locked_folder(tmp_path / "empty", busy):
        pass
    assert os.listdir(tmp_path) == ["answers"]


def test_a_folder_that_its_holder_removes_is_made_and_held_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that has written nothing removes the folder between another one's two steps."""
    answers, real = tmp_path / "answers", os.open
    steps = ["before it is opened", "after it is opened"]

    def open_late(path: Path, flags: int) -> int:
        if steps and steps.pop() == "before it is opened":
            answers.rmdir()
        handle = real(path, flags)
        if steps:
            answers.rmdir()
        return handle

    monkeypatch.setattr(os, "open", open_late)
    with scratch.locked_folder(answers, Bilingual("is in use", "正在使用")):
        (answers / "a").write_text("1")
        with pytest.raises(UserError, match="is in use"), scratch.locked_folder(answers, Bilingual("is in use", "正在使用")):
            pass
    assert os.listdir(answers) == ["a"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every folder")
def test_a_folder_that_cannot_be_held_is_named(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o300)
    busy = Bilingual("is in use", "正在使用")
    with pytest.raises(UserError, match=r"closed: cannot be written: permission"), scratch.locked_folder(tmp_path / "closed", busy):
        pass
