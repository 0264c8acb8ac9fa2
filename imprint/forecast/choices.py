"""Other settings of the same run, and the one that makes it fit on a card."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from imprint.forecast.cards import Card
from imprint.forecast.estimate import Choice, Estimate
from imprint.quant.names import FormatName
from imprint.tune.lora.section import LoraSection
from imprint.tune.prefix import DEFAULT_LENGTH
from imprint.tune.section import FullSection, PrefixSection

FORMATS: Final[tuple[FormatName, ...]] = (8, "int4-g128")
"""Weight formats that are tried where the base is not quantized."""
SHORTER: Final = 4
"""A prefix is made shorter by this factor."""


def other_choices(own: Choice, rows: int, *, quantizable: bool) -> list[Choice]:
    """The recipe's own choice first, then others; those that keep its numbers before those that do not.

    `rows`: those of a step on one device. `quantizable`: whether the base can be quantized: it is not quantized already.
    """
    sizes = [own.micro_batch, *_micro_batches(rows)]
    choices = list(_with_sizes(own, sizes))
    full = isinstance(own.tune, FullSection)
    formats: tuple[FormatName | None, ...] = (None, *FORMATS) if quantizable and not full else ()
    for name in formats:
        choices += _with_sizes(replace(own, quantize=name), sizes)
    smallest = "int4-g128" if quantizable else own.quantize
    if isinstance(own.tune, PrefixSection):
        shorter = own.tune.model_copy(update={"length": max(1, (own.tune.length or DEFAULT_LENGTH) // SHORTER)})
        choices += _with_sizes(replace(own, tune=shorter, quantize=smallest), [1])
    if full:
        for name in (None, *(FORMATS if quantizable else ())):
            choices += _with_sizes(replace(own, tune=LoraSection(method="lora"), quantize=name), [sizes[1], 1])
    return [choice for index, choice in enumerate(choices) if choice not in choices[:index]]


def _micro_batches(rows: int) -> list[int]:
    """All rows of a step, half of them, a quarter ... one."""
    return [rows, *_micro_batches(-(-rows // 2))] if rows > 1 else [1]


def _with_sizes(choice: Choice, sizes: Sequence[int]) -> Iterator[Choice]:
    for checkpointing in (choice.checkpointing, not choice.checkpointing):
        for size in sizes:
            yield replace(choice, checkpointing=checkpointing, micro_batch=size)


def changed_knobs(own: Choice, choice: Choice) -> list[str]:
    """What to type after the recipe to get a choice."""
    knobs = []
    if choice.tune.method != own.tune.method:
        knobs.append(f"tune.method={choice.tune.method}")
    elif isinstance(choice.tune, PrefixSection) and isinstance(own.tune, PrefixSection) and choice.tune.length != own.tune.length:
        knobs.append(f"tune.length={choice.tune.length}")
    if choice.quantize != own.quantize:
        knobs.append(f"model.quantize={'null' if choice.quantize is None else choice.quantize}")
    if choice.checkpointing != own.checkpointing:
        knobs.append(f"train.checkpointing={str(choice.checkpointing).lower()}")
    if choice.micro_batch != own.micro_batch:
        knobs.append(f"train.micro_batch_size={choice.micro_batch}")
    return knobs


def best_fit(estimates: Sequence[Estimate], card: Card) -> Estimate | None:
    """The best choice that fits on a card; None if none does. The first estimate is that of the recipe.

    The best is the fastest that keeps method and weights, else the fastest in another weight format, else with a shorter prefix, else with
    another method.
    """
    own = estimates[0].choice
    fitting = [estimate for estimate in estimates if estimate.fits(card)]
    return min(fitting, key=lambda one: (_distance(own, one.choice), one.step_seconds(card)), default=None)


def _distance(own: Choice, choice: Choice) -> tuple[bool, bool, bool]:
    """What a choice changes, the largest change first: the method, the size of the adapter, the weight format."""
    return choice.tune.method != own.tune.method, choice.tune != own.tune, choice.quantize != own.quantize


def by_distance(choices: Sequence[Choice]) -> list[list[Choice]]:
    """The choices in groups that change equally much, those that change less first; the first choice is the recipe's."""
    groups: dict[tuple[bool, bool, bool], list[Choice]] = {}
    for choice in choices:
        groups.setdefault(_distance(choices[0], choice), []).append(choice)
    return [groups[distance] for distance in sorted(groups)]


def may_be_recommended(group: Sequence[Choice], estimates: Sequence[Estimate], cards: Sequence[Card]) -> bool:
    """Whether `best_fit` or `fastest_fit` on one of the cards may be a choice of this group, after those that change less."""
    own = estimates[0]
    rivals = any(_is_rival(own.choice, choice) for choice in group)
    return any(rivals if own.fits(card) else not any(one.fits(card) for one in estimates) for card in cards)


def fastest_fit(estimates: Sequence[Estimate], card: Card) -> Estimate | None:
    """The fastest choice that fits on a card and trains what the recipe trains, in its weight format or unquantized; None if none does."""
    fitting = [one for one in estimates if one.fits(card) and _is_rival(estimates[0].choice, one.choice)]
    return min(fitting, key=lambda one: one.step_seconds(card), default=None)


def _is_rival(own: Choice, choice: Choice) -> bool:
    """Whether a choice trains what the recipe trains, in its weight format or unquantized."""
    return choice.tune == own.tune and choice.quantize in (own.quantize, None)
