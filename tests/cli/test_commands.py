import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from imprint.cli import main
from imprint.training.recipe import Recipe

MODELS = {"torch", "transformers", "nltk", "sklearn", "matplotlib"}
RECIPE = str(Path(__file__).parents[2] / "recipes" / "demo.yaml")
Stand = Callable[[str, str, Callable[..., None]], None]


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
