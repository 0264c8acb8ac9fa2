import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import imprint
from imprint.cli import build_parser, main
from imprint.messages import UserError
from imprint.training.recipe import Recipe

MODELS = {"torch", "transformers", "nltk", "sklearn", "matplotlib"}
HEAVY = {"torch", "transformers", "matplotlib", "jieba", "pydantic", "numpy", "yaml", "rich", "sentencepiece"}
RECIPE = str(Path(__file__).parents[1] / "recipes" / "demo.yaml")
SURFACE = {
    "": {"--help", "--version"},
    "train": {"--help", "RECIPE.yaml", "a.b=c"},
    "evaluate": {"--help", "RUN|MODEL", "--data", "--limit", "a.b=c"},
    "compare": {"--help", "RUN", "--data", "--prompts", "--limit", "a.b=c"},
    "chat": {"--help", "RUN|MODEL", "a.b=c"},
    "perplexity": {"--help", "RUN|MODEL", "--data", "--limit", "a.b=c"},
    "score": {"--help", "PREDICTIONS", "--protocol", "--output"},
    "data": {"--help"},
    "data check": {"--help", "FILE", "--dev", "--fix", "--model", "a.b=c"},
    "data show": {"--help", "FILE", "--limit", "--model", "a.b=c"},
    "data convert": {"--help", "FILE", "OUT", "a.b=c"},
    "doctor": {"--help"},
    "import": {"--help", "FILE.gguf", "OUT"},
    "quantize": {"--help", "MODEL", "OUT", "--bits"},
    "export": {"--help", "RUN", "OUT", "--to", "--prompts", "a.b=c"},
    "main": {"--help", "--flag value"},
    "migrate": {"--help", "train.sh", "RECIPE.yaml"},
    "forgetting": {"--help", "RUN", "a.b=c"},
    "report": {"--help", "RUN"},
    "runs": {"--help", "--json", "FOLDER"},
    "recipe": {"--help", "--evaluate", "--markdown"},
    "demo": {"--help"},
    "demo rows": {"--help", "--task", "OUT"},
    "demo identity": {"--help", "OUT"},
    "demo kiln": {"--help", "OUT"},
    "demo bloom": {"--help", "OUT", "a.b=c"},
}
PRINTS = """\
import sys, types
sys.modules["imprint.training.run"] = types.SimpleNamespace(train_command=lambda *_: print("step / 步\\n" * 9999))
from imprint.cli import main
sys.exit(main(["train", sys.argv[1]]))
"""
"""A whole process of the command that prints much, without what it takes seconds to import."""
Stand = Callable[[str, str, Callable[..., None]], None]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Put a function in the place of one that a command imports."""

    def put(module: str, name: str, function: Callable[..., None]) -> None:
        stand = ModuleType(module)
        setattr(stand, name, function)
        monkeypatch.setitem(sys.modules, module, stand)

    return put


def surface(parser: argparse.ArgumentParser, name: str = "") -> dict[str, set[str]]:
    """What can be typed: for each command its options and the names of its arguments."""
    found: dict[str, set[str]] = {name: set()}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child, child_parser in action.choices.items():
                found |= surface(child_parser, f"{name} {child}".strip())
        else:
            found[name].add(action.option_strings[-1] if action.option_strings else str(action.metavar))
    return found


def test_the_surface_does_not_grow_by_accident() -> None:
    assert surface(build_parser()) == SURFACE


@pytest.mark.parametrize("words", ["CUDA out of memory. Tried to allocate 2.00 GiB", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory"])
def test_running_out_of_memory_is_a_sentence(words: str, stand_in: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_arguments: object) -> None:
        raise RuntimeError(words)

    stand_in("imprint.training.run", "train_command", fail)
    assert main(["train", RECIPE]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: the device ran out of memory. Compute fewer rows at once: train.micro_batch_size=1")


def test_every_help_line_is_in_both_languages() -> None:
    help_lines = [line for line in build_parser().format_help().splitlines() if " / " in line]
    assert len(help_lines) == 1 + sum(bool(name) and " " not in name for name in SURFACE) + 6  # the title, the commands, the first steps
    assert all(any("\u4e00" <= letter <= "\u9fff" for letter in line) for line in help_lines)


def test_help_imports_nothing_heavy_and_is_quick() -> None:
    script = (
        "import sys; from imprint.cli import main\ntry: main(['--help'])\n"
        f"finally: print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    times = []
    for _attempt in range(3):
        began = time.perf_counter()
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
        times.append(time.perf_counter() - began)
    assert result.stderr == "[]\n"
    assert "commands / 命令" in result.stdout
    assert min(times) < 0.5


@pytest.mark.parametrize(
    "words",
    [
        ["train", RECIPE, "train.stepz=3"],
        ["evaluate", "run", "--data", "a.jsonl", "batchsize=3"],
        ["compare", "run", "seed=x"],
        ["chat", "run", "temprature=1"],
        ["perplexity", "run", "--data", "a.txt", "batch=1"],
        ["forgetting", "run", "limits=3"],
        ["export", "run", "--to", "merged", "base=x"],
    ],
)
def test_a_mistake_in_an_override_is_told_before_anything_heavy_is_imported(words: list[str]) -> None:
    script = f"import sys; from imprint.cli import main; code = main({words!r}); print(code, sorted({MODELS!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert result.stdout == "2 []\n"
    assert f"override {words[-1]}: " in result.stderr


def test_the_module_is_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    status = subprocess.run([sys.executable, "-m", "imprint", "--version"], check=False).returncode
    assert (status, capfd.readouterr().out) == (0, f"imprint {imprint.__version__}\n")


def test_train_gets_the_recipe_and_the_overrides(stand_in: Stand) -> None:
    calls: list[tuple[object, ...]] = []
    stand_in("imprint.training.run", "train_command", lambda *arguments: calls.append(arguments))
    assert main(["train", RECIPE, "train.steps=3", "tune.text=a=b"]) == 0
    ((recipe, arguments),) = calls
    assert isinstance(recipe, Recipe)
    assert (recipe.train.steps, arguments) == (3, [RECIPE, "train.steps=3", "tune.text=a=b"])


@pytest.mark.parametrize("words", [["--do_train", "--max_steps", "3", "--lr=1"], ["--", "--do_train"], ["arguments.json"], []])
def test_all_that_stands_behind_main_is_left_to_the_old_flags(words: list[str], stand_in: Stand) -> None:
    calls: list[list[str]] = []
    stand_in("imprint.compat.run", "run_original", lambda flags: calls.append([flag for flag in flags if flag != "--"]))
    assert main(["main", *words]) == 0
    assert calls == [[word for word in words if word != "--"]]


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


def test_ctrl_c_ends_with_a_sentence(stand_in: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(_recipe: Recipe, _arguments: list[str]) -> None:
        raise KeyboardInterrupt

    stand_in("imprint.training.run", "train_command", interrupt)
    assert main(["train", RECIPE]) == 130
    assert capsys.readouterr().err.startswith("\nstopped; run the same command again to continue / 已停止")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "usage: imprint [-h] [--version] COMMAND ..."),
        (["evaluate", "run", "--data", "a", "--limit", "0"], 'error: argument --limit: must be an integer of at least 1, got "0". Run'),
        (["train"], "error: the following arguments are required: RECIPE.yaml. Run `imprint train --help` to see what can be given.\n"),
        (["trian"], 'error: argument COMMAND: "trian" is unknown; did you mean train? allowed here: train, evaluate,'),
        (["export", "run", "--to", "vllm"], 'error: argument --to: "vllm" is unknown; allowed here: official,'),
        (
            ["train", "recipe.yaml", "--pre_seq_len", "128"],
            "error: unrecognized arguments: --pre_seq_len 128. Knobs are written without dashes, as in tune.length=128; the flags of an",
        ),
        (
            ["evaluate", "run", "--data", "a", "--limt", "3"],
            "error: unrecognized arguments: --limt 3; did you mean --limit? Run `imprint evaluate --help`",
        ),
        (["report", "run", "more"], "error: unrecognized arguments: more. Run `imprint report --help` to see what can be given.\n"),
    ],
)
def test_a_command_that_cannot_be_read_is_told(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(sentence)


def test_the_package_itself_imports_nothing_heavy_and_refuses_unknown_names() -> None:
    with pytest.raises(AttributeError, match="module 'imprint' has no attribute 'laod'"):
        imprint.laod  # noqa: B018
