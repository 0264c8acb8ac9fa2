import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from imprint.cli import main
from imprint.training.recipe import Recipe

MODELS = {"torch", "transformers", "nltk", "sklearn", "matplotlib"}
RECIPE = str(Path(__file__).parents[2] / "recipes" / "demo.yaml")
Stand = Callable[[str, str, Callable[..., None]], None]


MISTAKEN = (
    ["train", RECIPE, "train.stepz=3"],
    ["evaluate", "run", "--data", "a.jsonl", "batchsize=3"],
    ["compare", "run", "seed=x"],
    ["chat", "run", "temprature=1"],
    ["perplexity", "run", "--data", "a.txt", "batch=1"],
    ["forgetting", "run", "limits=3"],
    ["export", "run", "--to", "merged", "base=x"],
)
SAID = (
    (
        ["train", RECIPE, f"data.train={RECIPE}"],
        f"tuning by {RECIPE} (loading PyTorch first) ... / 按 {RECIPE} 微调（先加载 PyTorch）……",
    ),
    (["evaluate", "run", "--data", "a.jsonl"], "answering and scoring a.jsonl (loading"),
    (["compare", "run"], "comparing run with its base"),
    (["chat", "run"], "opening run"),
    (["perplexity", "run", "--data", "a.txt"], "measuring texts under run"),
    (["forgetting", "run"], "measuring what was forgotten in run"),
    (["report", "run"], "writing the report of run"),
    (["runs"], "looking for runs in ."),
    (["score", "a.jsonl"], "scoring a.jsonl"),
    (["data", "check", "a.jsonl", "b.jsonl"], "checking a.jsonl b.jsonl"),
    (["data", "show", "a.jsonl"], "reading a.jsonl"),
    (["doctor"], "looking at this machine"),
    (["import", "a.gguf", "out"], "reading a.gguf"),
    (["quantize", "base", "out"], "quantizing base"),
    (["export", "run", "--to", "peft"], "exporting run"),
    (["main", "--do_train"], "reading the flags of the original main.py"),
    (["migrate", "train.sh"], "reading train.sh"),
    (["demo", "bloom", "out"], "making a tiny BLOOM in out"),
)
"""What is typed -> how that begins which the command says first."""
STOPPED_AT_TORCH = """\
import gc, io, json, sys
from contextlib import redirect_stderr, redirect_stdout
class Stop:
    def find_spec(self, name, *_):
        if name == "torch":
            sys.exit("torch while the collector runs" if gc.isenabled() else "torch")
sys.meta_path.insert(0, Stop())
from imprint.cli import main
"""
ONE_AFTER_ANOTHER = f"""{STOPPED_AT_TORCH}
found = []
for words in json.loads(sys.argv[1]):
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as told:
        try:
            end = main(words)
        except SystemExit as stopped:
            end = stopped.code
    assert gc.isenabled()
    found.append((end, told.getvalue(), out.getvalue()))
print(json.dumps([found, sorted(sys.modules)]))
"""
"""Each of the commands, in a process that ends a command where it imports PyTorch; how each ended, and what it said on both streams."""


def ends_of(commands: Sequence[list[str]], folder: Path) -> tuple[list[tuple[object, str, str]], set[str]]:
    """What came of each command, and the modules that were imported for all of them."""
    line = [sys.executable, "-c", ONE_AFTER_ANOTHER, json.dumps(commands)]
    ends, modules = json.loads(subprocess.run(line, capture_output=True, encoding="utf-8", check=True, cwd=folder).stdout)
    return ends, set(modules)


def test_a_mistake_in_an_override_is_told_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    ends, modules = ends_of(MISTAKEN, tmp_path)
    assert [(end, out) for end, _, out in ends] == [(2, "")] * len(MISTAKEN)
    assert [words for words, (_, told, _) in zip(MISTAKEN, ends, strict=True) if f"override {words[-1]}: " not in told] == []
    assert modules & MODELS == set()


def test_a_command_says_what_it_does_before_it_imports_pytorch_without_the_collector_and_not_on_its_output(tmp_path: Path) -> None:
    ends, _ = ends_of([words for words, _ in SAID], tmp_path)
    assert [(end, out) for end, _, out in ends] == [("torch", "")] * len(SAID)
    assert [len(told.splitlines()) for _, told, _ in ends] == [1] * len(SAID)
    assert [sign for (_, sign), (_, told, _) in zip(SAID, ends, strict=True) if not told.startswith(sign)] == []


def test_a_command_without_pytorch_and_a_process_of_several_say_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    subprocess.run([sys.executable, "-m", "imprint", "init"], check=True)
    environment = {**os.environ, "WORLD_SIZE": "2", "RANK": "1"}
    subprocess.run([sys.executable, "-c", f"{STOPPED_AT_TORCH}main({['train', RECIPE]!r})"], env=environment, check=False)
    assert capfd.readouterr().err == "torch\n"


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


def test_a_task_of_made_up_rows_that_there_is_not_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "rows", str(tmp_path / "rows"), "--task", "poem"]) == 2
    assert '--task: there is no task "poem". Allowed: ad_copy, summary, translation, classification' in capsys.readouterr().err
    assert not (tmp_path / "rows").exists()
