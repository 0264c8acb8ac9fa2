"""Questions that show whether the base's own abilities survive a tuning."""

from dataclasses import dataclass
from typing import Final

from imprint.demo.arithmetic import ask_sum, draw_sum
from imprint.demo.dice import Dice
from imprint.demo.rows import SEED_STRIDE
from imprint.demo.talk import read_topics
from imprint.demo.town import read_town

KINDS: Final = ("talk", "identity", "sum", "fact")


@dataclass(frozen=True)
class Probe:
    """One question with the answers that count as right."""

    query: str
    """What is asked."""
    answers: tuple[str, ...]
    """Every right answer, the most usual first."""
    kind: str
    """One of KINDS."""


def probes(seed: int, count: int) -> list[Probe]:
    """So many questions, of each kind in turn; the sums are none that the corpus has."""
    dice = Dice(seed * SEED_STRIDE + 3)
    return [_probe(KINDS[place % len(KINDS)], dice) for place in range(count)]


def _probe(kind: str, dice: Dice) -> Probe:
    if kind == "sum":
        question = draw_sum(dice, held_out=True)
        return Probe(ask_sum(question, dice), (question.answer,), kind)
    if kind == "fact":
        fact = dice.pick(read_town().facts)
        return Probe(dice.pick(fact.questions), (fact.answer,), kind)
    topic = dice.pick(read_topics(identity=kind == "identity"))
    return Probe(dice.pick(topic.questions), topic.answers, kind)
