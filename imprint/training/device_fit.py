"""Chooses before the first step how this GPU computes micro-batches: in parts or several at once, with activations kept or recomputed.

Loss and gradient do not depend on the choice, nor does the batch. The probe of the longest rows follows, and measures.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch

from imprint.data.dataset import DataSplits
from imprint.engine.world import World
from imprint.forecast.cards import CARDS, Card, find_card
from imprint.forecast.estimate import CONTEXT_BYTES, Choice, Plan, estimate
from imprint.loading.base import base_folder
from imprint.messages import Bilingual, UserError
from imprint.model import Model
from imprint.training.fit import make_plan, network_builder, recipe_choice, with_processes
from imprint.training.memory import GIB, TokenBudget
from imprint.training.recipe import Recipe

MARGIN: Final = 0.97
"""Share of the free memory that a forecast may fill."""
LARGE_WORKSPACE_CAPABILITY: Final = (9, 0)
ASK_FIT: Final = Bilingual("`imprint fit` says what would make it fit", "imprint fit 会给出办法")


@dataclass(frozen=True)
class DeviceFit:
    """How a micro-batch is computed."""

    checkpointing: bool
    """Whether activations are recomputed."""
    rows: int | None = None
    """Rows that are computed at once, a part of a micro-batch or several of them; None for a micro-batch."""
    needed_bytes: int = 0
    """What the forecast says that it needs; 0 without a forecast."""
    fits: bool = True
    """Whether that is less than what is free."""


def fit_to_device(
    recipe: Recipe, split: DataSplits, model: Model, world: World, notify: Callable[[Bilingual], None]
) -> tuple[Recipe, TokenBudget]:
    """The recipe with `train.checkpointing` chosen if it is null (on the CPU: false), and how many tokens are computed at once."""
    section = recipe.train
    if model.device.type != "cuda" or section.fit == "off":
        return with_checkpointing(recipe, bool(section.checkpointing)), TokenBudget()
    card = this_card(model.device)
    planned = with_processes(recipe, max(1, world.size // recipe.engine.nodes))
    plan = make_plan(planned, split, model.network, network_builder(recipe, base_folder(recipe.model.location), model.network.dtype))
    chosen = world.on_main(lambda: fit_of_recipe(recipe, plan, card, processes=world.size))
    budget = token_budget(recipe, plan, chosen)
    if chosen.needed_bytes and world.is_main:
        notify(choice_notice(chosen, budget, card))
    return with_checkpointing(recipe, chosen.checkpointing), budget


def fit_of_recipe(recipe: Recipe, plan: Plan, card: Card, *, processes: int) -> DeviceFit:
    """How a card computes the micro-batches of a recipe, with the freedom that the recipe leaves."""
    section = recipe.train
    whole = processes > 1 or recipe.engine.uses_deepspeed_or_fsdp  # collective: they compute whole micro-batches
    own = recipe_choice(recipe, len(plan.rows))
    return choose_fit(plan, own, section.checkpointing, card, merges=section.merge_micro_batches and not whole, whole=whole)


def token_budget(recipe: Recipe, plan: Plan, fit: DeviceFit) -> TokenBudget:
    """How many tokens are computed at once where micro-batches are computed so."""
    if fit.rows is None:
        return TokenBudget()
    micro_batches = fit.rows // recipe_choice(recipe, len(plan.rows)).micro_batch
    if micro_batches:
        return TokenBudget(None, micro_batches)
    return TokenBudget(sum(len(ids) for row in plan.rows[: fit.rows] for ids, _ in row))


def choose_fit(
    plan: Plan,
    own: Choice,
    checkpointing: bool | None,  # noqa: FBT001
    card: Card,
    *,
    merges: bool = False,
    whole: bool = False,
) -> DeviceFit:
    """The fastest way to compute the micro-batches of a run on a card; the one that needs least where none fits.

    `checkpointing`: the recipe's, None to choose it. `merges`: several micro-batches may be computed as one; `whole`: none in parts.
    """
    sizes = [own.micro_batch]
    while merges and sizes[0] < len(plan.rows):
        sizes.insert(0, min(2 * sizes[0], own.micro_batch * -(-len(plan.rows) // own.micro_batch)))
    while sizes[-1] > 1 and not whole:
        sizes.append(-(-sizes[-1] // 2))
    ways = [(size, recomputed) for recomputed in ((False, True) if checkpointing is None else (checkpointing,)) for size in sizes]
    found: list[tuple[float, DeviceFit]] = []
    for size, recomputed in ways:
        try:
            forecast = estimate(plan, replace(own, micro_batch=size, checkpointing=recomputed))
        except (RuntimeError, NotImplementedError, UserError):  # a network that computes shapes from numbers: the probe will tell
            return DeviceFit(bool(checkpointing))
        needed = forecast.needed_bytes(card)
        fit = DeviceFit(recomputed, None if size == own.micro_batch else size, needed, needed <= card.memory_bytes)
        if fit.fits and (size, recomputed) == ways[0]:
            return fit
        found.append((forecast.step_seconds(card), fit))
    fitting = [entry for entry in found if entry[1].fits]
    return min(fitting, key=lambda entry: entry[0])[1] if fitting else min(found, key=lambda entry: entry[1].needed_bytes)[1]


def with_checkpointing(recipe: Recipe, checkpointing: bool) -> Recipe:  # noqa: FBT001
    """The recipe with this `train.checkpointing`."""
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"checkpointing": checkpointing})})


def choice_notice(fit: DeviceFit, budget: TokenBudget, card: Card, advice: Bilingual = ASK_FIT) -> Bilingual:
    """What was chosen, and why. `advice`: what is told where it does not fit."""
    english = "activations are recomputed" if fit.checkpointing else "activations are kept"
    chinese = "重算激活" if fit.checkpointing else "保留激活"
    if budget.micro_batches > 1:
        english += f", {budget.micro_batches} micro-batches are computed at once"
        chinese += f"，每次合并 {budget.micro_batches} 个微批"
    elif budget.tokens is not None:
        english += f", at most {budget.tokens} tokens are computed at once"
        chinese += f"，每次最多算 {budget.tokens} 个词元"
    if not fit.fits:
        english += f"; that is more than is free: {advice.english}"
        chinese += f"；超过可用显存，{advice.chinese}"
    needed, available = f"{fit.needed_bytes / GIB:.1f}", f"{card.memory_gib:.1f}"
    return Bilingual(
        f"forecast: the longest rows need {needed} of {available} GiB: {english}",
        f"预测最长的几行需要 {needed} / {available} GiB：{chinese}",
    )


def _usable_bytes(device: torch.device) -> int:
    """Memory of a GPU that this process can have: what is free, what it holds, and its context."""
    free, _total = torch.cuda.mem_get_info(device)
    return int(MARGIN * (free + torch.cuda.memory_reserved(device))) + CONTEXT_BYTES


def this_card(device: torch.device) -> Card:
    """A GPU with the memory that it has now; for one that is not known, the rates of one with as much memory."""
    properties = torch.cuda.get_device_properties(device)
    try:
        card = find_card(properties.name)
    except UserError:
        card = min(CARDS, key=lambda one: abs(one.memory_bytes - properties.total_memory))
    large = (properties.major, properties.minor) >= LARGE_WORKSPACE_CAPABILITY
    return replace(card, name=properties.name, memory_gib=_usable_bytes(device) / GIB, large_workspace=large)
