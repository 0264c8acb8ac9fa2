"""The pre-training corpus of the embedded base: an endless stream of short texts about the toy town."""

from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Final

from imprint.data.sample import Sample
from imprint.demo.arithmetic import ask_problem, draw_problem
from imprint.demo.flat import ask_for_attributes, describe_flatly
from imprint.demo.goods import read_goods
from imprint.demo.pages import write_page
from imprint.demo.rng import Rng, weighted
from imprint.demo.rows import SEED_STRIDE
from imprint.demo.stories import list_words, tell_day, write_odd_text
from imprint.demo.talk import read_topics
from imprint.demo.town import Fact, read_town

Turn = tuple[str, str]
"""(question, answer)."""
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
"""Kind of document -> its share in percent; `flat`: an attribute list answered by listing the
attributes (demo/flat.py); `odd`: Latin letters, digits and rare characters."""
HISTORY_SHARE: Final = 0.2
"""Share of questions with earlier turns, of those that can have them."""
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
"""Relation of a fact -> a follow-up question, after another question about the same shop or person."""


def documents(seed: int) -> Iterator[Sample]:
    """The endless stream for a seed; plain text has an empty query."""
    rng = Rng(seed * SEED_STRIDE)
    kinds = weighted(list(SHARES.items()))
    shops = read_town().shop_names
    number = 0
    while True:
        number += 1
        kind = rng.pick(kinds)
        history: tuple[Turn, ...] | None = None
        if kind == "page":
            query, answer = write_page(shops, rng)
        elif kind in ("day", "words", "odd"):
            query, answer = "", TEXT_WRITERS[kind](rng)
        else:
            query, answer = TURN_WRITERS[kind](rng)
            if kind != "flat" and rng.chance(HISTORY_SHARE):
                history, (query, answer) = _with_history((query, answer), rng)
        yield Sample(query, answer, history, f"corpus:{number}")


def _flat_turn(rng: Rng) -> Turn:
    item = read_goods().draw(rng)
    return ask_for_attributes(item, rng), describe_flatly(item, rng)


def _fact_turn(rng: Rng) -> Turn:
    fact = rng.pick(read_town().facts)
    return rng.pick(fact.questions), fact.answer


def _sum_turn(rng: Rng) -> Turn:
    question = draw_problem(rng, held_out=False)
    return ask_problem(question, rng), question.answer


def _talk_turn(rng: Rng) -> Turn:
    topic = rng.pick(read_topics(identity=False))
    return rng.pick(topic.questions), rng.pick(topic.usual_answers)


def _identity_turn(rng: Rng) -> Turn:
    topic = rng.pick(read_topics(identity=True))
    return rng.pick(topic.questions), rng.pick(topic.usual_answers)


TEXT_WRITERS: Final = MappingProxyType({"day": tell_day, "words": list_words, "odd": write_odd_text})
TURN_WRITERS: Final = MappingProxyType(
    {"flat": _flat_turn, "fact": _fact_turn, "sum": _sum_turn, "talk": _talk_turn, "identity": _identity_turn}
)
HISTORY_KINDS: Final = ("fact", "sum", "talk", "talk", "identity")
"""Kinds of earlier turns of a conversation."""


def _with_history(last: Turn, rng: Rng) -> tuple[tuple[Turn, ...], Turn]:
    """Earlier turns and the last turn, which is often a follow-up about the same shop or person."""
    history = [TURN_WRITERS[rng.pick(HISTORY_KINDS)](rng) for _ in range(1 + rng.below(2))]
    if rng.chance(0.4):
        facts = rng.pick(_facts_by_subject())
        first, second = rng.pick(facts), rng.pick(facts)
        if first is not second:
            history[-1] = (rng.pick(first.questions), first.answer)
            last = (FOLLOW_UPS[second.relation], second.answer)
    return tuple(history), last


@cache
def _facts_by_subject() -> tuple[tuple[Fact, ...], ...]:
    """The facts of each shop and of each person."""
    by_subject: dict[str, list[Fact]] = {}
    for fact in read_town().facts:
        if fact.about:
            by_subject.setdefault(fact.about, []).append(fact)
    return tuple(tuple(facts) for facts in by_subject.values())
