import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import imprint
from imprint.cli import main
from imprint.messages import UserError
from imprint.terminal import CONTROLS
from imprint.training.recipe import Recipe
from tests.families import published_folder

RECIPE = str(Path(__file__).parents[2] / "recipes" / "demo.yaml")
PRINTS = """\
import sys, types
sys.modules["torch"] = sys.modules["imprint.training.run"] = types.SimpleNamespace(train_command=lambda *_: print("step / 步\\n" * 9999))
from imprint.cli import main
sys.exit(main(["train", sys.argv[1]]))
"""
"""A whole process of the command that prints much, without what it takes seconds to import."""
Stand = Callable[[str, str, Callable[..., None]], None]


@pytest.mark.parametrize("words", ["CUDA out of memory. Tried to allocate 2.00 GiB", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory"])
def test_running_out_of_memory_is_a_sentence(words: str, stand_in: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError(words)

    stand_in("imprint.training.run", "train_command", fail)
    assert main(["train", RECIPE]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: the device ran out of memory. Compute fewer rows at once: train.micro_batch_size=1")


def test_the_module_is_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    status = subprocess.run([sys.executable, "-m", "imprint", "--version"], check=False).returncode
    assert (status, capfd.readouterr().out) == (0, f"imprint {imprint.__version__}\n")


def printing(behind: str) -> subprocess.CompletedProcess[str]:
    """Print much where `behind` leads it in a shell."""
    command = ["bash", "-c", f'"$0" -c "$1" "$2" {behind}', sys.executable, PRINTS, RECIPE]
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)


def test_a_reader_who_leaves_is_no_mistake() -> None:
    result = printing("| head -n 1; echo ${PIPESTATUS[0]}")
    assert result.stdout == "step / 步\n141\n"
    assert result.stderr == ""


@pytest.mark.parametrize("setting", [{"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}])
def test_a_terminal_without_chinese_gets_its_escapes_and_no_traceback(setting: dict[str, str]) -> None:
    command = [sys.executable, "-m", "imprint", "--help"]
    result = subprocess.run(command, capture_output=True, encoding="ascii", env={**os.environ, **setting}, check=True)
    assert result.stderr == ""
    assert r"commands / \u547d\u4ee4:" in result.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_under_the_output_is_a_sentence() -> None:
    result = printing("> /dev/full")
    assert result.returncode == 2
    assert result.stderr.startswith("error: the command cannot write its output: No space left on device.")
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


def test_a_command_whose_output_is_closed_does_its_work() -> None:
    assert printing(">&- 2>&-").returncode == 0


def test_what_the_user_can_mend_is_a_sentence_without_traceback(stand_in: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_recipe: Recipe, _arguments: list[str]) -> None:
        raise UserError("recipe.yaml: data: is missing\nrecipe.yaml: x: is unknown")

    stand_in("imprint.training.run", "train_command", refuse)
    assert main(["train", RECIPE]) == 2
    assert capsys.readouterr().err == "error: recipe.yaml: data: is missing\n       recipe.yaml: x: is unknown\n"


def test_a_strangers_file_and_its_name_cannot_steer_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hostile, base = "\x1b]0;title\x07", tmp_path / "base"
    base.mkdir()
    for name in ("config.json", "ice_text.model"):
        shutil.copy(Path(imprint.__file__).parent / "embedded" / name, base)
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": hostile}}), encoding="utf-8")
    for words in (["chat", str(base)], ["data", "check", hostile], ["report", hostile], ["chat", hostile, f"x={hostile}"]):
        assert main(words) == 2
    with pytest.raises(SystemExit):
        main(["chat", "run", f"--{hostile}"])
    printed = capfd.readouterr()
    assert "title" in printed.err
    assert "\x1b" not in printed.err + printed.out
    assert "\x07" not in printed.err + printed.out


def test_what_a_chat_template_raises_cannot_steer_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    base = published_folder(tmp_path / "base", chat_template="{{ raise_exception('\x1b]0;title\x07\u202e') }}")
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    assert main(["data", "show", str(tmp_path / "rows.jsonl"), "--model", str(base)]) == 2
    printed = capfd.readouterr()
    assert "title" in printed.err
    assert not CONTROLS.search(printed.err + printed.out)


def test_ctrl_c_ends_with_a_sentence(stand_in: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_recipe: Recipe, _arguments: list[str]) -> None:
        raise KeyboardInterrupt

    stand_in("imprint.training.run", "train_command", interrupt)
    assert main(["train", RECIPE]) == 130
    assert capsys.readouterr().err.startswith("\nstopped; run the same command again to continue / 已停止")


def test_the_package_itself_imports_nothing_heavy_and_refuses_unknown_names() -> None:
    with pytest.raises(AttributeError, match="module 'imprint' has no attribute 'laod'"):
        imprint.laod  # noqa: B018


@pytest.mark.parametrize("command", [["runs"], ["report"], ["train"], ["chat"], ["score"], ["init", "identity"]])
@pytest.mark.parametrize("name", ["x" * 5000, "/".join(["x" * 200] * 30)], ids=["part", "path"])
def test_a_name_that_no_disk_has_is_a_sentence_in_both_languages(command: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, name]) == 2
    said = capsys.readouterr().err
    assert "the name is too long for the disk. Choose a shorter one." in said
    assert "名字太长，磁盘不支持：请换一个短一些的名字。" in said
    assert len(said) < 20_000


def test_a_file_that_may_not_be_read_is_a_sentence(stand_in: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_recipe: Recipe, _arguments: list[str]) -> None:
        raise PermissionError(13, "Permission denied", "/nobody/rows.jsonl")

    stand_in("imprint.training.run", "train_command", fail)
    assert main(["train", RECIPE]) == 2
    assert "/nobody/rows.jsonl: permission is denied. Check who may read and write it." in capsys.readouterr().err


def test_a_file_that_a_command_of_ours_forgot_to_make_is_no_mistake_of_the_user(stand_in: Stand) -> None:
    def fail(_recipe: Recipe, _arguments: list[str]) -> None:
        Path("/nowhere/at/all").read_text(encoding="utf-8")

    stand_in("imprint.training.run", "train_command", fail)
    with pytest.raises(FileNotFoundError):
        main(["train", RECIPE])


@pytest.mark.parametrize("command", [["data", "convert", "loop", "out.jsonl"], ["quantize", "base", "loop/x", "--bits", "8"]])
def test_a_link_that_leads_back_to_itself_is_a_sentence(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("pool")
    Path("pool").symlink_to("loop")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}", encoding="utf-8")
    assert main(command) == 2
    assert "link that leads back to itself" in capsys.readouterr().err
