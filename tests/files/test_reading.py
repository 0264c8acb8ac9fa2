"""Files that are read whole are regular and of bounded size; nothing waits or fills the memory."""

import os
import re
import socket
from pathlib import Path

import pytest

from imprint.cli import main
from imprint.files import reading
from imprint.files.atomic import read_jsonl
from imprint.files.reading import read_bounded, read_json, read_json_object, read_text, require_regular
from imprint.messages import UserError


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe.json")
    return tmp_path / "pipe.json"


def test_a_pipe_a_socket_and_a_device_are_refused_and_not_waited_for(pipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        for path in (pipe, Path("socket"), Path("/dev/zero")):
            for read in (require_regular, read_bounded, read_text, read_json, read_json_object, read_jsonl):
                with pytest.raises(UserError, match="is not a regular file, but a pipe, a socket or a device"):
                    read(path)


def test_a_file_above_the_limit_is_refused_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**24 + 1)
    with pytest.raises(UserError, match="large has more than 16 MiB, which no file of its kind has"):
        read_text(tmp_path / "large")
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "nothing")
    monkeypatch.setattr(reading, "MAX_JSON_VALUES", 3)
    (tmp_path / "deep.json").write_text("[[[]]]")
    with pytest.raises(UserError, match="it has 4 values, more than 3"):
        read_json_object(tmp_path / "deep.json")


def test_newlines_are_one_character(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1\r\n2\r3\n")

    assert read_text(tmp_path / "a") == "1\n2\n3\n"


@pytest.mark.parametrize(
    "command",
    [
        ["train", "{pipe}"],
        ["data", "check", "{pipe}"],
        ["data", "check", "{pipe}", "kind=texts"],
        ["data", "show", "{pipe}"],
        ["data", "convert", "{pipe}", "out.jsonl"],
        ["score", "{pipe}"],
        ["main", "{pipe}"],
    ],
)
def test_every_command_that_reads_a_file_refuses_a_pipe(command: list[str], pipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word.format(pipe=pipe) for word in command]) in (1, 2)

    said = capsys.readouterr()
    assert "not a regular file" in said.err + said.out
    assert "Traceback" not in said.err


def test_a_git_lfs_pointer_is_refused_and_nothing_else_is(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    for content in (b"", b"version", b"version https://git"):
        path.write_bytes(content)
        reading.refuse_lfs_pointer(path)
    reading.refuse_lfs_pointer(tmp_path / "absent")
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(UserError, match=re.escape(f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull`")):
        reading.refuse_lfs_pointer(path)
