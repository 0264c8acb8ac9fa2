"""`imprint fit RECIPE.yaml`: what a run takes on this machine's GPU, or on the known cards, and what `imprint train` would choose."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch

from imprint.engine.launch import local_processes
from imprint.files.disk_errors import refuse_unwritable
from imprint.forecast.cards import CARDS, Card, find_card
from imprint.forecast.choices import best_fit, changed_knobs
from imprint.forecast.run import RunForecast
from imprint.messages import Bilingual, UserError
from imprint.runtime import choose_device
from imprint.terminal import say
from imprint.training.device_fit import choice_notice, fit_of_recipe, this_card, token_budget
from imprint.training.fit import PlannedRun, forecast_run, plan_run, with_processes
from imprint.training.fit_lines import NOTHING_FITS, forecast_lines
from imprint.training.fit_page import write_forecast
from imprint.training.recipe import Recipe

ALL: Final = "all"
"""As `--card`: every card that is known."""


def fit_command(recipe: Recipe, name: str, *, card: str | None, output: Path | None) -> None:
    """Print the forecast of a recipe and write its picture to `output`. Raises UserError for data, a base or a card that is unusable.

    `card`: a name; None is this machine's GPU, or where it has none, all that are known.
    """
    gpu = own_gpu(recipe) if card is None else None
    wanted = this_card(gpu) if gpu is not None else None if card in (None, ALL) else find_card(str(card))
    if output is not None:
        refuse_unwritable(output.parent)
    if gpu is not None and recipe.engine.processes is None and recipe.engine.nodes == 1:
        recipe = with_processes(recipe, local_processes(recipe.engine, recipe.model.device, recipe.train.batch_size))
    run, shown = plan_run(recipe, gpu), CARDS if wanted is None else [wanted]
    forecast = forecast_run(run, name, cards=shown if output is None else None)
    say(*forecast_lines(forecast, wanted))
    if gpu is not None and wanted is not None:
        say("", *(line.line for line in train_lines(run, forecast, wanted)))
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


def train_lines(run: PlannedRun, forecast: RunForecast, card: Card) -> Iterator[Bilingual]:
    """What `imprint train` would choose on this machine's GPU, and in which precision it would compute."""
    recipe, plan = run.recipe, run.plan
    yield Bilingual("on this GPU `imprint train` does the following:", "在本机 GPU 上，imprint train 会这样做：")
    if recipe.train.fit == "off":
        yield Bilingual("  train.fit=off: the recipe's numbers as they are", "train.fit=off：完全按配方的数值")
    else:
        fit = fit_of_recipe(recipe, plan, card, processes=(recipe.engine.processes or 1) * recipe.engine.nodes)
        notice = choice_notice(fit, token_budget(recipe, plan, fit), card, what_fits(forecast, card))
        yield Bilingual(f"  {notice.english}", notice.chinese)
    dtype = str(run.network.dtype).removeprefix("torch.")
    given = recipe.model.dtype is not None
    yield Bilingual(
        f"  computes in {dtype}, {'as model.dtype says' if given else 'the default on this GPU (model.dtype is null)'}",
        f"计算精度 {dtype}，{'由 model.dtype 指定' if given else '此 GPU 的默认值（model.dtype 为 null）'}",
    )


def what_fits(forecast: RunForecast, card: Card) -> Bilingual:
    """What would make a run fit."""
    other = best_fit(forecast.estimates, card)
    if other is None:
        return NOTHING_FITS
    knobs = " ".join(changed_knobs(forecast.own.choice, other.choice))
    return Bilingual(f"{knobs} would fit", f"{knobs} 放得下")
