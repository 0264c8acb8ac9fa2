import errno
import os
import re
from pathlib import Path

import pytest
import torch

from imprint.files import atomic
from imprint.files.disk_errors import refuse_unwritable
from imprint.messages import UserError


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left on the disk. Free some space"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "no space is left on the disk. Free some space"),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
            "no space is left on the disk. Free some space",
        ),
        (OSError(errno.ENAMETOOLONG, "File name too long"), "the name is too long for the disk. Choose a shorter one"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "its folder does not exist and cannot be created. Choose another path"),
        (OSError(errno.EROFS, "Read-only file system"), "the disk is read-only. Choose a folder that can be written"),
    ],
)
def test_a_disk_that_refuses_is_told_in_a_sentence(tmp_path: Path, error: Exception, sentence: str) -> None:
    path = tmp_path / "adapter"
    with pytest.raises(UserError, match=re.escape(f"{path}: cannot be written: {sentence}")), atomic.atomic_folder(path):
        raise error
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_way_of_a_folder_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match=r"cannot be written: a part of the path is a file"):
        atomic.write_text(tmp_path / "run" / "config.yaml", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full, which is full at once")
def test_torch_too_tells_a_full_disk_in_a_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"cannot be written: no space is left on the disk"),
        atomic.atomic_folder(tmp_path / "state") as folder,
    ):
        (folder / "weights").symlink_to("/dev/full")
        torch.save({"weights": torch.zeros(1000)}, folder / "weights")
    assert os.listdir(tmp_path) == []


def test_what_was_told_of_another_file_is_not_told_of_this_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^books\.txt cannot be read"), atomic.atomic_folder(tmp_path / "tokens"):
        raise UserError(f"books.txt cannot be read any further: {os.strerror(errno.EIO)}. Is the disk still there?")
    assert os.listdir(tmp_path) == []


def test_a_name_that_is_too_long_is_told_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    with pytest.raises(UserError, match=r"the name is too long for the disk"):
        atomic.remove_leftovers(path)
    with pytest.raises(UserError, match=r"the name is too long for the disk"):
        atomic.write_text(path / "config.yaml", "")


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    for folder in (tmp_path / "rows.jsonl", tmp_path / "rows.jsonl" / "run"):
        with pytest.raises(UserError, match=re.escape(f"{folder}: cannot be written: a part of the path is a file")):
            refuse_unwritable(folder)
    monkeypatch.chdir(tmp_path)
    refuse_unwritable(Path("new/folder"))
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(UserError, match=re.escape("new/folder: cannot be written: permission is denied.")):
        refuse_unwritable(Path("new/folder"))
    assert os.listdir(tmp_path) == ["rows.jsonl"]
