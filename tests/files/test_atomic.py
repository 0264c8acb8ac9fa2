import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from imprint.files import atomic
from imprint.messages import UserError


class Killed(BaseException):
    """Stands for a SIGKILL: nothing after it runs."""


def fill(path: Path, text: str) -> None:
    with atomic.atomic_folder(path) as folder:
        (folder / "weights").write_text(text)


def test_a_file_in_a_new_folder_may_be_read_by_whoever_may_read_the_folder(tmp_path: Path) -> None:
    with atomic.atomic_folder(tmp_path / "adapter") as part:
        (part / "weights").write_text("1")
        (part / "weights").chmod(0o600)
    assert (tmp_path / "adapter" / "weights").stat().st_mode & 0o777 == (tmp_path / "adapter").stat().st_mode & 0o666


def test_a_text_is_replaced_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "scores.json"
    atomic.write_text(path, "old")
    atomic.write_text(path, "新\n")
    assert path.read_bytes() == "新\n".encode()
    assert os.listdir(path.parent) == ["scores.json"]


def test_json_keeps_chinese_readable_and_writes_null_for_nan(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    atomic.write_json(path, {"名": "印", "loss": float("nan"), "all": [float("inf"), (1, 2.5)]})
    assert "印" in path.read_text(encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == {"名": "印", "loss": None, "all": [None, [1, 2.5]]}


def test_lone_surrogates_are_escaped_in_json(tmp_path: Path) -> None:
    value = {"名": "\ud800", "b": ["\udfff印"]}
    atomic.write_json(tmp_path / "a.json", value)
    atomic.append_jsonl(tmp_path / "a.jsonl", value)
    atomic.write_jsonl(tmp_path / "b.jsonl", [value])
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value
    assert atomic.read_jsonl(tmp_path / "a.jsonl") == atomic.read_jsonl(tmp_path / "b.jsonl") == [value]


def test_an_unfinished_line_is_neither_read_nor_kept(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert atomic.read_jsonl(path) == []
    atomic.append_jsonl(path, {"step": 1})
    with path.open("a") as file:
        file.write('{"step": 2, "text": "' + "x" * 10_000)
    assert atomic.read_jsonl(path) == [{"step": 1}]
    atomic.append_jsonl(path, {"step": 2})
    assert atomic.read_jsonl(path) == [{"step": 1}, {"step": 2}]


def test_a_file_that_is_only_an_unfinished_line_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("x" * 5000)
    atomic.append_jsonl(path, 1)
    assert path.read_text() == "1\n"


def test_a_broken_line_is_named_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": \n')
    with pytest.raises(UserError, match=re.escape(f"{path}:2: this is not a line of JSON")):
        atomic.read_jsonl(path)


def test_lines_of_more_than_any_run_writes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.jsonl"
    monkeypatch.setattr(atomic, "MAX_LINES_VALUES", 5)
    for content, line in ((b"[[[[[\n", 1), (b'1\n["a","b","c","d"]\n', 2), (b"1\n" * 6, 6), (b"\n" * 6, 1), (b"1" * (2**24 + 1), 1)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"log\.jsonl:{line}: .*(as no file of its kind. Is it another file\?|is not a line of JSON)"):
            atomic.read_jsonl(path)
    monkeypatch.setattr(atomic, "MAX_LINES_BYTES", 2**20)
    with pytest.raises(UserError, match=r"has more than 1 MiB, which no file of its kind has"):
        atomic.read_jsonl(path)


def test_a_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "state-000500"
    with atomic.atomic_folder(path) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "weights").write_text("1")
        assert not path.exists()
    assert (path / "deep" / "weights").read_text() == "1"
    assert os.listdir(tmp_path) == ["state-000500"]


def test_a_failed_replacement_leaves_the_old_folder(tmp_path: Path) -> None:
    path = tmp_path / "adapter"
    fill(path, "old")
    with pytest.raises(ValueError, match="broken"), atomic.atomic_folder(path) as folder:
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
        patch.setattr(atomic, "_fsync", kill_at_last(atomic._fsync))
        patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)  # the dead clean nothing up
        try:
            fill(path, "new")
            killed = False
        except Killed:
            killed = True
    assert killed == (calls < 5)
    found = atomic.find_folder(path)
    assert found is not None
    before = (found / "weights").read_text()
    assert before in {"old", "new"}
    atomic.remove_leftovers(tmp_path)
    assert (path / "weights").read_text() == before
    assert os.listdir(tmp_path) == ["adapter"]


@pytest.mark.parametrize("path", [".", "..", "/"])
def test_a_folder_without_a_name_is_found_too(path: str) -> None:
    assert atomic.find_folder(Path(path)) == Path(path)


def test_leftovers_of_a_file_and_of_a_new_folder_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".scores.json.part").write_text("half")
    (tmp_path / ".state-000500.part").mkdir()
    (tmp_path / ".hidden").write_text("not ours")
    atomic.remove_leftovers(tmp_path)
    atomic.remove_leftovers(tmp_path / "absent")
    assert os.listdir(tmp_path) == [".hidden"]
    assert atomic.find_folder(tmp_path / "state-000500") is None


@pytest.mark.parametrize("write", [lambda path: atomic.write_text(path, "1"), lambda path: atomic.atomic_file(path).__enter__()])
def test_neither_a_pipe_nor_a_device_nor_a_folder_is_replaced_by_a_file(tmp_path: Path, write: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(UserError, match="is a device or a pipe"):
            write(tmp_path / name)
    for folder in (tmp_path, Path()):
        with pytest.raises(UserError, match="a folder has this name"):
            write(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_a_new_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    with atomic.atomic_file(path) as part:
        part.write_text("old")
        assert not path.exists()

    with pytest.raises(KeyboardInterrupt), atomic.atomic_file(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt

    assert (path.read_text(), os.listdir(path.parent)) == ("old", ["rows.jsonl"])
