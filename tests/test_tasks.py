"""The recipe of every task, cut short and at its full length."""

import json
from pathlib import Path

import pytest

from imprint.cli import main
from imprint.config import read_recipe
from imprint.demo.rows import AD_COPY, TASKS, write_rows
from imprint.metrics.task_scores import TASK_METRICS
from imprint.training.recipe import Recipe

RECIPES = Path(__file__).parents[1] / "recipes"
NAMES = tuple(task.replace("_", "-") for task in TASKS if task != AD_COPY)
QUICK = ("classification",)
"""That with figures of its own; all recipes train in `test_recipes`."""
SHORT = (
    "train.steps=2",
    "train.batch_size=4",
    "train.micro_batch_size=4",
    "train.watch_prompts=0",
    "data.dev_rows=4",
    "forgetting.measure=false",
)


def recipe(name: str) -> Path:
    return RECIPES / f"task-{name}.yaml"


def scores_of(name: str, folder: Path, *, rows: int, limit: int, knobs: tuple[str, ...] = ()) -> tuple[dict[str, float], dict[str, float]]:
    """Train by a recipe in an empty folder; what the base and the tuned model score, metric by metric."""
    task = name.replace("-", "_")
    write_rows(Path(f"runs/{name}-data"), task=task, train=rows, dev=limit)
    assert main(["train", str(recipe(name)), *knobs]) == 0
    assert main(["compare", f"runs/{name}", "--data", f"runs/{name}-data/dev.jsonl"]) == 0
    found = []
    for end in ("-base", ""):
        report = json.loads((folder / f"runs/{name}/evaluations/dev{end}/scores.json").read_text(encoding="utf-8"))
        assert report["task"] == task
        found.append({metric: report[metric]["value"] for metric in TASK_METRICS[task]})
    return found[0], found[1]


def test_every_task_has_a_recipe_that_names_it() -> None:
    assert {path.name for path in RECIPES.glob("task-*.yaml")} == {recipe(name).name for name in NAMES}
    for name in NAMES:
        assert read_recipe(recipe(name), [], Recipe).task.kind == name.replace("-", "_")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.long) for name in NAMES])
def test_a_recipe_cut_short_is_scored_by_its_metrics(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before, after = scores_of(name, tmp_path, rows=40, limit=6, knobs=SHORT)
    assert before.keys() == after.keys() == set(TASK_METRICS[name.replace("-", "_")])
    page = Path(f"runs/{name}/compare.html").read_text(encoding="utf-8")
    assert all(metric.upper() in page for metric in after)
    if name == "classification":
        assert "data:image/png;base64," in page
        assert "TF-IDF" in page
        assert Path(f"runs/{name}/evaluations/dev/confusion.png").is_file()
        report = json.loads(Path(f"runs/{name}/evaluations/dev/scores.json").read_text(encoding="utf-8"))
        assert report["baseline"]["accuracy"]["high"] >= report["baseline"]["accuracy"]["low"]
        assert len(report["classes"]) == len(report["confusion"]) == 5
    if name == "translation":
        report = json.loads(Path(f"runs/{name}/evaluations/dev/scores.json").read_text(encoding="utf-8"))
        assert "tok:zh" in report["signatures"]["bleu"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "metric", "base", "tuned"),
    [
        ("summary", "rouge-l", 30, 80),
        ("translation", "bleu", 5, 60),
        ("classification", "accuracy", 40, 70),
        ("continuation", "rouge-l", 20, 45),
        ("code-comments", "exact", 5, 50),
    ],
)
def test_a_recipe_lifts_its_metric_from_below_a_bound_to_above_another(
    name: str, metric: str, base: float, tuned: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before, after = scores_of(name, tmp_path, rows=3000, limit=100, knobs=("train.watch_prompts=0",))
    assert before[metric] < base
    assert after[metric] > tuned
    assert after.get("perplexity", 0) < before.get("perplexity", 1)
