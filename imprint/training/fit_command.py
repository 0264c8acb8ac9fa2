"""`imprint fit RECIPE.yaml`: what a run takes on this machine's GPU, or on the known cards, and what `imprint train` would choose."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from imprint.engine.launch import local_processes
from imprint.files.disk_errors import refuse_unwritable
from imprint.forecast.cards import CARDS, Card, find_card
from imprint.forecast.choices import best_fit, changed_knobs
from imprint.forecast.estimate import estimate
from imprint.forecast.run import RunForecast
from imprint.messages import Bilingual, UserError
from imprint.runtime import choose_device
from imprint.terminal import say
from imprint.training.device_fit import DeviceFit, choice_notice, fit_of_recipe, this_card, token_budget
from imprint.training.fit import PlannedRun, forecast_run, plan_run, recipe_choice, with_processes
from imprint.training.fit_lines import NOTHING_FITS, forecast_lines, size
from imprint.training.fit_page import write_forecast
from imprint.training.fit_probe import measured_bytes
from imprint.training.recipe import Recipe

ALL: Final = "all"
"""As `--card`: every card that is known."""


def fit_command(recipe: Recipe, name: str, *, card: str | None = None, output: Path | None = None, probes: bool = False) -> None:
    """Print the forecast of a recipe and write its picture to `output`. Raises UserError for data, a base or a card that is unusable.

    `card`: a name; None is this machine's GPU, or where it has none, all that are known. `probes`: load the base there, compute the
    longest rows once and say what they took.
    """
    gpu = own_gpu(recipe) if card is None else None
    if probes and gpu is None:
        raise UserError(
            Bilingual(
                "--probe: computes on this machine's GPU, and there is none for this recipe, or --card names another. Leave it out.",
                "--probe 要在本机 GPU 上试算，而本机没有可用的 GPU，或 --card 指定了别的显卡：请去掉 --probe。",
            )
        )
    wanted = None
    if gpu is not None:
        wanted = this_card(gpu)
    elif card is not None and card != ALL:
        wanted = find_card(card)
    if output is not None:
        refuse_unwritable(output.parent)
    if gpu is not None and recipe.engine.processes is None and recipe.engine.nodes == 1:
        recipe = with_processes(recipe, local_processes(recipe.engine, recipe.model.device, recipe.train.batch_size))
    run, shown = plan_run(recipe, gpu), CARDS if wanted is None else [wanted]
    forecast = forecast_run(run, name, cards=shown if output is None else None)
    say(*forecast_lines(forecast, wanted))
    if gpu is not None and wanted is not None:
        fit = _chosen_fit(run, wanted)
        say("", *(line.line for line in train_lines(run, forecast, wanted, fit)))
        if probes:
            say(measured_line(run, wanted, fit).line)
    if output is not None:
        pictured = wanted or next((one for one in CARDS if forecast.own.fits(one)), CARDS[-1])
        write_forecast(forecast, pictured, output)
        say(Bilingual(f"the picture of all settings on {pictured.name} is in {output}", f"全部设置的图见 {output}").line)


def own_gpu(recipe: Recipe) -> torch.device | None:
    """The GPU of this machine that would compute a recipe; None where there is none, or the recipe names another device."""
    if not torch.cuda.is_available():
        return None
    try:
        device = choose_device(recipe.model.device)
    except UserError:  # a recipe for another machine
        return None
    if device.type != "cuda":
        return None
    return torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)


def _chosen_fit(run: PlannedRun, card: Card) -> DeviceFit:
    """What `imprint train` would choose."""
    recipe = run.recipe
    if recipe.train.fit == "off":
        return DeviceFit(bool(recipe.train.checkpointing))
    return fit_of_recipe(recipe, run.plan, card, processes=(recipe.engine.processes or 1) * recipe.engine.nodes)


def train_lines(run: PlannedRun, forecast: RunForecast, card: Card, fit: DeviceFit) -> Iterator[Bilingual]:
    """What `imprint train` would choose on this machine's GPU, and in which precision it would compute."""
    recipe, plan = run.recipe, run.plan
    yield Bilingual("on this GPU `imprint train` does the following:", "在本机 GPU 上，imprint train 会这样做：")
    if recipe.train.fit == "off":
        yield Bilingual("  train.fit=off: the recipe's numbers as they are", "train.fit=off：完全按配方的数值")
    else:
        notice = choice_notice(fit, token_budget(recipe, plan, fit), card, what_fits(forecast, card))
        yield Bilingual(f"  {notice.english}", notice.chinese)
    dtype = str(run.network.dtype).removeprefix("torch.")
    given = recipe.model.dtype is not None
    yield Bilingual(
        f"  computes in {dtype}, {'as model.dtype says' if given else 'the default on this GPU (model.dtype is null)'}",
        f"计算精度 {dtype}，{'由 model.dtype 指定' if given else '此 GPU 的默认值（model.dtype 为 null）'}",
    )


def measured_line(run: PlannedRun, card: Card, fit: DeviceFit) -> Bilingual:
    """What the longest rows took, beside the forecast of the same: of tensors alone, which is what PyTorch counts."""
    own = recipe_choice(run.recipe, len(run.plan.rows))
    choice = replace(own, checkpointing=fit.checkpointing, micro_batch=fit.rows or own.micro_batch)
    predicted = estimate(run.plan, choice).allocated_bytes(card)
    measured = measured_bytes(run, lambda told: say(f"  {told.line}"))
    share = 100 * (predicted / measured - 1)
    return Bilingual(
        f"  measured: tensors take {size(measured)} at their peak; forecast: {size(predicted)} ({share:+.1f} %)",
        f"实测张量峰值 {size(measured)}，预测 {size(predicted)}（{share:+.1f} %）",
    )


def what_fits(forecast: RunForecast, card: Card) -> Bilingual:
    """What would make a run fit."""
    other = best_fit(forecast.estimates, card)
    if other is None:
        return NOTHING_FITS
    knobs = " ".join(changed_knobs(forecast.own.choice, other.choice))
    return Bilingual(f"{knobs} would fit", f"{knobs} 放得下")
