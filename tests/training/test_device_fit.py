from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
import yaml

from imprint.config import read_recipe
from imprint.data.dataset import DataSplits
from imprint.engine.world import SINGLE
from imprint.forecast.cards import Card, find_card
from imprint.forecast.estimate import Choice, Estimate, estimate
from imprint.messages import UserError
from imprint.model import Model
from imprint.training import device_fit
from imprint.training.device_fit import DeviceFit, choose_fit, fit_to_device, token_budget
from imprint.training.recipe import Recipe
from imprint.training.run import train
from imprint.tune.section import PrefixSection
from tests.forecast.full_shape import plan
from tests.tinyrun import tiny_recipe


@cache
def estimate_once(choice: Choice) -> Estimate:
    """Every test asks for the same plan."""
    return estimate(plan(), choice)


@pytest.fixture(autouse=True)
def _estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_fit, "estimate", lambda _plan, choice: estimate_once(choice))


OWN = Choice(PrefixSection(length=128, start="random"), None, checkpointing=False, micro_batch=16)


def card(gibibytes: float, name: str = "H200") -> Card:
    """A GPU with so much memory free."""
    return replace(find_card(name), memory_gib=gibibytes)


def test_activations_are_kept_where_the_longest_rows_fit_and_else_recomputed() -> None:
    kept = choose_fit(plan(), OWN, None, card(23))
    assert kept == DeviceFit(checkpointing=False, rows=None, needed_bytes=kept.needed_bytes, fits=True)
    chosen = choose_fit(plan(), OWN, None, card(14.5))
    assert chosen.checkpointing
    assert chosen.rows is None
    assert chosen.fits
    assert chosen.needed_bytes < 14.5 * 2**30


def test_on_a_slower_card_parts_are_faster_than_to_recompute() -> None:
    chosen = choose_fit(plan(), OWN, None, card(14.5, "RTX 4090"))
    assert not chosen.checkpointing
    assert chosen.rows == 4


def test_a_value_of_the_recipe_is_honoured_and_the_rows_are_computed_in_parts() -> None:
    chosen = choose_fit(plan(), OWN, checkpointing=False, card=card(14.5))
    assert not chosen.checkpointing
    assert chosen.rows == 4
    assert chosen.fits
    assert choose_fit(plan(), OWN, checkpointing=True, card=card(23)).checkpointing


def test_where_nothing_fits_the_smallest_is_tried_and_that_is_told() -> None:
    chosen = choose_fit(plan(), OWN, None, card(8))
    assert not chosen.fits
    assert chosen.checkpointing
    assert chosen.rows == 1


def test_micro_batches_are_computed_together_as_far_as_memory_allows() -> None:
    one = replace(OWN, micro_batch=1)
    assert choose_fit(plan(), one, False, card(23), merges=True).rows == 16
    some = choose_fit(plan(), one, False, card(16), merges=True)
    assert some.fits
    assert some.rows in (2, 4, 8)
    assert choose_fit(plan(), one, False, card(23)).rows is None  # not asked for


def test_processes_that_work_together_compute_whole_micro_batches() -> None:
    chosen = choose_fit(plan(), OWN, None, card(8), whole=True)
    assert chosen.rows is None
    assert chosen.checkpointing


def test_the_choice_is_written_into_the_run_and_made_again_when_it_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_recipe(tmp_path)
    run = train(recipe, ["train.steps=2"])
    assert yaml.safe_load(run.config.read_text(encoding="utf-8"))["train"]["checkpointing"] is False
    capsys.readouterr()
    train(recipe, ["train.steps=3"])
    printed = capsys.readouterr().out
    assert "train.steps: 2 -> 3" in printed
    assert "checkpointing" not in printed


def test_off_takes_the_numbers_of_the_recipe_without_a_forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Card:
        raise AssertionError("a forecast was made")

    monkeypatch.setattr(device_fit, "this_card", refuse)
    model = cast("Model", SimpleNamespace(device=torch.device("cuda", 0)))
    split = cast("DataSplits", None)
    path = tiny_recipe(tmp_path)
    for knobs, checkpointing in ((["train.checkpointing=true"], True), ([], False)):
        recipe = read_recipe(path, ["train.fit=off", *knobs], Recipe)
        chosen, budget = fit_to_device(recipe, split, model, SINGLE, print)
        assert chosen.train.checkpointing is checkpointing
        assert (budget.tokens, budget.micro_batches) == (None, 1)


def test_other_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fit"):
        read_recipe(tiny_recipe(tmp_path), ["train.fit=on"], Recipe)


def test_merged_micro_batches_and_parts_of_one_become_a_budget(tmp_path: Path) -> None:
    recipe = read_recipe(tiny_recipe(tmp_path), ["train.batch_size=16", "train.micro_batch_size=4"], Recipe)
    assert token_budget(recipe, plan(), DeviceFit(checkpointing=False)).tokens is None
    merged = token_budget(recipe, plan(), DeviceFit(checkpointing=False, rows=8))
    assert (merged.tokens, merged.micro_batches) == (None, 2)
    parts = token_budget(recipe, plan(), DeviceFit(checkpointing=False, rows=2))
    assert (parts.tokens, parts.micro_batches) == (sum(len(ids) for row in plan().rows[:2] for ids, _ in row), 1)
