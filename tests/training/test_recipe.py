from pathlib import Path

import pytest

from imprint.cli import main
from imprint.config import describe, dump, read_recipe
from imprint.messages import UserError
from imprint.training.recipe import Recipe
from tests.tinyrun import RECIPE

NEEDED = ["output=run", "model.path=embedded", "data.train=rows.jsonl", "tune.method=prefix"]


def test_every_recipe_that_is_shipped_loads(repo: Path) -> None:
    shipped = sorted((repo / "recipes").glob("*.yaml"))
    assert shipped
    for path in shipped:
        assert read_recipe(path, [], Recipe).train.batch_size >= 1, path


def test_a_recipe_says_little_and_the_rest_is_filled_in(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{}\n")
    recipe = read_recipe(tmp_path / "recipe.yaml", NEEDED, Recipe)
    assert recipe.tune.method == "prefix"
    assert (recipe.optimizer.schedule, recipe.optimizer.clip) == ("cosine", 1.0)
    assert (recipe.train.steps, recipe.train.epochs, recipe.train.loss_average) == (None, 1.0, "token")
    assert recipe.train.keep_states == 2


def test_what_a_run_writes_down_reads_back_as_the_same_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=tmp_path))
    recipe = read_recipe(tmp_path / "recipe.yaml", [], Recipe)
    (tmp_path / "config.yaml").write_text(dump(recipe), encoding="utf-8")
    assert read_recipe(tmp_path / "config.yaml", [], Recipe) == recipe
    assert dump(recipe).count("\n") >= len(describe(Recipe)) // 2


def test_a_method_takes_its_own_knobs_only(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("tune: {method: full, length: 4}\n")
    with pytest.raises(UserError, match=r"tune\.length"):
        read_recipe(tmp_path / "recipe.yaml", NEEDED[:3], Recipe)


@pytest.mark.parametrize(
    "wrong",
    [
        "train.steps=0",
        "train.epochs=0",
        "train.batch_size=0",
        "train.micro_batch_size=0",
        "train.loss_average=mean",
        "train.keep_states=0",
        "train.save_every=0",
        "optimizer.learning_rate=0",
        "optimizer.schedule=step",
        "optimizer.clip=0",
        "tune.prefix_dropout=1",
        "tune.start=ones",
        "data.dev_share=0.9",
    ],
)
def test_a_knob_out_of_its_bounds_is_named(wrong: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{}\n")
    with pytest.raises(UserError) as error:
        read_recipe(tmp_path / "recipe.yaml", [*NEEDED, wrong], Recipe)
    assert wrong.partition("=")[0] in str(error.value)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: {pth: x}\ntrain: {steps: -1}\n")
    with pytest.raises(UserError) as error:
        read_recipe(tmp_path / "recipe.yaml", [], Recipe)
    assert all(name in str(error.value) for name in ("output", "model.pth", "data", "tune", "train.steps"))


def test_every_knob_has_a_sentence() -> None:
    assert all(knob.description.endswith(".") for knob in describe(Recipe))


def test_another_method_behind_the_knobs_of_a_recipe_names_the_cure(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe), "tune.method=lora"]) == 2
    cure = "the recipe's knobs here are for method=prefix. To replace them all: 'tune={method: lora}'"
    told = capsys.readouterr().err
    assert f"{recipe}: tune: {cure}" in told
    assert "exists only with" not in told, "what each knob of the recipe belongs to would hide the cure"
    assert main(["train", str(recipe), "tune.method=lora", "tune.length=3"]) == 2
    assert "override tune.length=3: exists only with" in capsys.readouterr().err, "one that was typed is told"
    assert main(["train", str(recipe), "tune.method=qlora"]) == 2
    told = capsys.readouterr().err
    assert 'must be one of prefix, lora, full, got "qlora"' in told
    assert "To replace them all" not in told, "a method that does not exist is no cure"
    assert main(["train", str(recipe), "tune={method: lora}", "train.stepz=1"]) == 2
    assert "To replace them all" not in capsys.readouterr().err


def test_epochs_on_the_command_line_win_over_the_steps_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("train: {steps: 60}\n")

    def length(*overrides: str) -> tuple[int | None, float]:
        train = read_recipe(tmp_path / "recipe.yaml", [*NEEDED, *overrides], Recipe).train
        return train.steps, train.epochs

    assert length("train.epochs=1") == (None, 1.0)
    assert length("train.epochs=2", "train.epochs=3") == (None, 3.0)
    assert length("train.steps=null", "train.epochs=3") == (None, 3.0)
    assert length("train={steps: 7}", "train.epochs=3") == (None, 3.0)
    assert length("train.epochs=3", "train={steps: 7}") == (7, 1.0), "the section that was given last replaces all before it"
    assert length("train.steps=7") == (7, 1.0)


def test_a_recipe_with_steps_and_epochs_takes_its_steps_as_every_run_writes_both(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("train: {steps: 60, epochs: 2}\n")
    train = read_recipe(tmp_path / "recipe.yaml", NEEDED, Recipe).train
    assert (train.steps, train.epochs) == (60, 2.0)


def test_steps_and_epochs_on_one_command_line_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{}\n")
    with pytest.raises(UserError) as error:
        read_recipe(tmp_path / "recipe.yaml", [*NEEDED, "train.epochs=2", "train.steps=40"], Recipe)
    assert "override train.epochs=2: train.steps=40 is given too, and only one of them can count" in str(error.value)
    assert "两者只能取一个" in str(error.value)


def test_warm_up_steps_on_the_command_line_win_over_the_share_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("optimizer: {warmup_share: 0.5}\n")
    optimizer = read_recipe(tmp_path / "recipe.yaml", [*NEEDED, "optimizer.warmup_steps=4"], Recipe).optimizer
    assert (optimizer.warmup_steps, optimizer.warmup_share) == (4, None)


@pytest.mark.parametrize("length", ["train.steps=1000000001", "train.epochs=1e300"])
def test_a_length_that_no_log_can_hold_is_refused(length: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{}\n")
    with pytest.raises(UserError, match="must be at most"):
        read_recipe(tmp_path / "recipe.yaml", [*NEEDED, length], Recipe)
