import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from imprint import files
from imprint.messages import Bilingual, UserError


class Killed(BaseException):
    """Stands for a SIGKILL: nothing after it runs."""


def fill(path: Path, text: str) -> None:
    with files.atomic_folder(path) as folder:
        (folder / "weights").write_text(text)


def test_a_file_in_a_new_folder_may_be_read_by_whoever_may_read_the_folder(tmp_path: Path) -> None:
    with files.atomic_folder(tmp_path / "adapter") as part:
        (part / "weights").write_text("1")
        (part / "weights").chmod(0o600)
    assert (tmp_path / "adapter" / "weights").stat().st_mode & 0o777 == (tmp_path / "adapter").stat().st_mode & 0o666


def test_a_text_is_replaced_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "scores.json"
    files.write_text(path, "old")
    files.write_text(path, "新\n")
    assert path.read_bytes() == "新\n".encode()
    assert os.listdir(path.parent) == ["scores.json"]


def test_json_keeps_chinese_readable_and_writes_null_for_nan(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    files.write_json(path, {"名": "印", "loss": float("nan"), "all": [float("inf"), (1, 2.5)]})
    assert "印" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == {"名": "印", "loss": None, "all": [None, [1, 2.5]]}


def test_halves_of_characters_are_escaped_in_json(tmp_path: Path) -> None:
    value = {"名": "\ud800", "b": ["\udfff印"]}
    files.write_json(tmp_path / "a.json", value)
    files.append_jsonl(tmp_path / "a.jsonl", value)
    files.write_jsonl(tmp_path / "b.jsonl", [value])
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value
    assert files.read_jsonl(tmp_path / "a.jsonl") == files.read_jsonl(tmp_path / "b.jsonl") == [value]


def test_an_unfinished_line_is_neither_read_nor_kept(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert files.read_jsonl(path) == []
    files.append_jsonl(path, {"step": 1})
    with path.open("a") as file:
        file.write('{"step": 2, "text": "' + "x" * 10_000)
    assert files.read_jsonl(path) == [{"step": 1}]
    files.append_jsonl(path, {"step": 2})
    assert files.read_jsonl(path) == [{"step": 1}, {"step": 2}]


def test_a_file_that_is_only_an_unfinished_line_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("x" * 5000)
    files.append_jsonl(path, 1)
    assert path.read_text() == "1\n"


def test_a_broken_line_is_named_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": \n')
    with pytest.raises(UserError, match=re.escape(f"{path}:2: this is not a line of JSON")):
        files.read_jsonl(path)


def test_lines_of_more_than_any_run_writes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("[" * 2_000_001 + "\n")
    with pytest.raises(
        UserError, match=r"has 2,000,001 lists and objects, more than 2,000,000, as no file of its kind. Is it another file?"
    ):
        files.read_jsonl(path)
    monkeypatch.setattr(files, "MAX_LINES_BYTES", 2**20)
    with pytest.raises(UserError, match=r"has more than 1 MiB, which no file of its kind has"):
        files.read_jsonl(path)


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "state-000500"
    with files.atomic_folder(path) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "weights").write_text("1")
        assert not path.exists()
    assert (path / "deep" / "weights").read_text() == "1"
    assert os.listdir(tmp_path) == ["state-000500"]


def test_a_failed_replacement_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "adapter"
    fill(path, "old")
    with pytest.raises(ValueError, match="broken"), files.atomic_folder(path) as folder:
        (folder / "weights").write_text("new")
        raise ValueError("broken")
    assert (path / "weights").read_text() == "old"
    assert os.listdir(tmp_path) == ["adapter"]


@pytest.mark.parametrize("calls", range(6))
def test_a_complete_folder_is_found_wherever_the_process_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    path = tmp_path / "adapter"
    fill(path, "old")
    left = calls

    def kill_at_last(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", kill_at_last(Path.rename))
        patch.setattr(files, "_fsync", kill_at_last(files._fsync))
        patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)  # the dead clean nothing up
        try:
            fill(path, "new")
            killed = False
        except Killed:
            killed = True
    assert killed == (calls < 5)
    found = files.find_folder(path)
    assert found is not None
    before = (found / "weights").read_text()
    assert before in {"old", "new"}
    files.remove_leftovers(tmp_path)
    assert (path / "weights").read_text() == before
    assert os.listdir(tmp_path) == ["adapter"]


@pytest.mark.parametrize("path", [".", "..", "/"])
def test_a_folder_without_a_name_is_found_too(path: str) -> None:
    assert files.find_folder(Path(path)) == Path(path)


def test_a_git_lfs_pointer_is_refused_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    for content in (b"", b"version", b"version https://git"):
        path.write_bytes(content)
        files.refuse_lfs_pointer(path)
    files.refuse_lfs_pointer(tmp_path / "absent")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UserError, match=re.escape(f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull`")):
        files.refuse_lfs_pointer(path)


def test_a_strangers_link_under_a_temporary_name_is_not_followed(tmp_path: Path) -> None:
    """A folder of a stranger may hold `.report.html.part -> ~/.bashrc`."""
    mine, run = tmp_path / "mine", tmp_path / "run"
    mine.mkdir()
    run.mkdir()
    (mine / "bashrc").write_text("mine")
    for name in (".report.html.part", ".out.tar.part"):
        (run / name).symlink_to(mine / "bashrc")
    for name in (".adapter.part", ".adapter.old", ".gone.old"):
        (run / name).symlink_to(mine)
    files.write_text(run / "report.html", "page")
    with files.atomic_file(run / "out.tar") as part:
        part.write_text("archive")
    fill(run / "adapter", "1")
    fill(run / "adapter", "2")
    files.remove_leftovers(run)
    assert sorted(os.listdir(run)) == ["adapter", "gone", "out.tar", "report.html"]
    assert [(mine / "bashrc").read_text(), os.listdir(mine)] == ["mine", ["bashrc"]]


def test_no_link_out_of_a_folder_and_no_pipe_in_it_is_read(tmp_path: Path) -> None:
    run, deep = tmp_path / "run", tmp_path / "run" / "evaluations" / "dev"
    deep.mkdir(parents=True)
    (deep / "answers.jsonl").touch()
    (run / "inside").symlink_to(deep)
    files.refuse_special_entries(run, run)
    (deep / "scores.json").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match=r"scores.json: is a link to .*mine, outside of its folder, and is neither read nor copied"):
        files.refuse_special_entries(run, run / "evaluations")
    (deep / "scores.json").unlink()
    (deep / "scores.json").symlink_to("scores.json")
    with pytest.raises(UserError, match="is a link that leads back to itself"):
        files.refuse_special_entries(run, run / "evaluations")
    (deep / "scores.json").unlink()
    os.mkfifo(deep / "scores.json")
    with pytest.raises(UserError, match=r"scores.json: is neither a file nor a folder"):
        files.refuse_special_entries(run, run / "evaluations")


def test_scratch_folders_of_killed_processes_are_removed_and_those_of_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "imprint-of-a-killed-one" / "logs").mkdir(parents=True)
    (tmp_path / "imprint-link").symlink_to(tmp_path)
    with files.scratch_folder() as mine, files.scratch_folder() as other:
        assert mine.is_dir()
        assert other.is_dir()
        assert sorted(os.listdir(tmp_path)) == sorted([mine.name, other.name, "imprint-link"])
    assert os.listdir(tmp_path) == ["imprint-link"]


def test_leftovers_of_a_file_and_of_a_new_folder_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".scores.json.part").write_text("half")
    (tmp_path / ".state-000500.part").mkdir()
    (tmp_path / ".hidden").write_text("not ours")
    files.remove_leftovers(tmp_path)
    files.remove_leftovers(tmp_path / "absent")
    assert os.listdir(tmp_path) == [".hidden"]
    assert files.find_folder(tmp_path / "state-000500") is None


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
    with pytest.raises(UserError, match=re.escape(f"{path}: cannot be written: {sentence}")), files.atomic_folder(path):
        raise error
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_way_of_a_folder_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match=r"cannot be written: a part of the path is a file"):
        files.write_text(tmp_path / "run" / "config.yaml", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full, which is full at once")
def test_torch_too_tells_a_full_disk_in_a_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"cannot be written: no space is left on the disk"),
        files.atomic_folder(tmp_path / "state") as folder,
    ):
        (folder / "weights").symlink_to("/dev/full")
        torch.save({"weights": torch.zeros(1000)}, folder / "weights")
    assert os.listdir(tmp_path) == []


def test_what_was_told_of_another_file_is_not_told_of_this_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^books\.txt cannot be read"), files.atomic_folder(tmp_path / "tokens"):
        raise UserError(f"books.txt cannot be read any further: {os.strerror(errno.EIO)}. Is the disk still there?")
    assert os.listdir(tmp_path) == []


def test_a_name_that_is_too_long_is_told_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    with pytest.raises(UserError, match=r"the name is too long for the disk"):
        files.remove_leftovers(path)
    with pytest.raises(UserError, match=r"the name is too long for the disk"):
        files.write_text(path / "config.yaml", "")


def test_a_new_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    with files.atomic_file(path) as part:
        part.write_text("old")
        assert not path.exists()

    with pytest.raises(KeyboardInterrupt), files.atomic_file(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt

    assert (path.read_text(), os.listdir(path.parent)) == ("old", ["rows.jsonl"])


def test_a_folder_is_held_by_one_writer_and_removed_if_nothing_was_written(tmp_path: Path) -> None:
    busy = Bilingual("is in use", "正在使用")
    with files.locked_folder(tmp_path / "answers", busy):
        with pytest.raises(UserError, match="is in use"), files.locked_folder(tmp_path / "answers", busy):
            pass
        (tmp_path / "answers" / "a").write_text("1")
    with files.locked_folder(tmp_path / "answers", busy), files.locked_folder(tmp_path / "empty", busy):
        pass
    assert os.listdir(tmp_path) == ["answers"]
