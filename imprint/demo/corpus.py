"""What the embedded base reads: an endless stream of short texts of the little world."""

from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Final

from imprint.data.sample import Sample
from imprint.demo.arithmetic import ask_sum, draw_sum
from imprint.demo.dice import Dice, weighted
from imprint.demo.flat import ask_flatly, describe_flatly
from imprint.demo.goods import read_goods
from imprint.demo.pages import write_page
from imprint.demo.rows import SEED_STRIDE
from imprint.demo.stories import list_words, tell_day, write_odd_text
from imprint.demo.talk import read_topics
from imprint.demo.town import Fact, read_town

Turn = tuple[str, str]
SHARES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "page": 37,
        "flat": 20,
        "fact": 14,
        "sum": 9,
        "talk": 6,
        "identity": 4,
        "day": 4,
        "words": 4,
        "odd": 2,
    }
)
"""What the stream holds, in parts of one hundred documents."""
ROUNDS_SHARE: Final = 0.2
"""How many questions that can stand in a conversation do stand in one."""
FOLLOW_UPS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "street": "那它在哪里？",
        "owner": "它的老板是谁？",
        "goods": "那里卖什么？",
        "opens": "那它几点开门？",
        "closes": "那它几点关门？",
        "rests": "它哪天休息？",
        "shop": "那人开的什么店？",
        "food": "那人爱吃什么？",
        "hobby": "那人有什么爱好？",
        "animal": "那人养了什么？",
        "month": "那人几月生日？",
    }
)
"""Relation of a fact -> a question that only makes sense behind another one about the same shop or person."""


def documents(seed: int) -> Iterator[Sample]:
    """The stream for a seed, without end; text that is only read has an empty query."""
    dice = Dice(seed * SEED_STRIDE)
    kinds = weighted(list(SHARES.items()))
    shops = read_town().shop_names
    number = 0
    while True:
        number += 1
        kind = dice.pick(kinds)
        history: tuple[Turn, ...] | None = None
        if kind == "page":
            query, answer = write_page(shops, dice)
        elif kind in ("day", "words", "odd"):
            query, answer = "", READ[kind](dice)
        else:
            query, answer = ANSWERED[kind](dice)
            if kind != "flat" and dice.chance(ROUNDS_SHARE):
                history, (query, answer) = _with_rounds((query, answer), dice)
        yield Sample(query, answer, history, f"corpus:{number}")


def _flat_turn(dice: Dice) -> Turn:
    item = read_goods().draw(dice)
    return ask_flatly(item, dice), describe_flatly(item, dice)


def _fact_turn(dice: Dice) -> Turn:
    fact = dice.pick(read_town().facts)
    return dice.pick(fact.questions), fact.answer


def _sum_turn(dice: Dice) -> Turn:
    question = draw_sum(dice, held_out=False)
    return ask_sum(question, dice), question.answer


def _talk_turn(dice: Dice) -> Turn:
    topic = dice.pick(read_topics(identity=False))
    return dice.pick(topic.questions), dice.pick(topic.usual_answers)


def _identity_turn(dice: Dice) -> Turn:
    topic = dice.pick(read_topics(identity=True))
    return dice.pick(topic.questions), dice.pick(topic.usual_answers)


READ: Final = MappingProxyType({"day": tell_day, "words": list_words, "odd": write_odd_text})
ANSWERED: Final = MappingProxyType(
    {"flat": _flat_turn, "fact": _fact_turn, "sum": _sum_turn, "talk": _talk_turn, "identity": _identity_turn}
)
SPOKEN: Final = ("fact", "sum", "talk", "talk", "identity")
"""What earlier turns of a conversation are."""


def _with_rounds(last: Turn, dice: Dice) -> tuple[tuple[Turn, ...], Turn]:
    """Earlier turns, and the last question with its answer, which half the time asks on about a shop or a person."""
    history = [ANSWERED[dice.pick(SPOKEN)](dice) for _ in range(1 + dice.below(2))]
    if dice.chance(0.4):
        together = dice.pick(_subjects())
        first, second = dice.pick(together), dice.pick(together)
        if first is not second:
            history[-1] = (dice.pick(first.questions), first.answer)
            last = (FOLLOW_UPS[second.relation], second.answer)
    return tuple(history), last


@cache
def _subjects() -> tuple[tuple[Fact, ...], ...]:
    """The facts of each shop and of each person."""
    together: dict[str, list[Fact]] = {}
    for fact in read_town().facts:
        if fact.about:
            together.setdefault(fact.about, []).append(fact)
    return tuple(tuple(facts) for facts in together.values())
