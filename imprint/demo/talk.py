"""Small talk, and questions about the identity of the toy model."""

from dataclasses import dataclass
from functools import cache
from typing import Final

from imprint.demo.rng import skewed
from imprint.demo.words import first_fields, read_sections

ANSWER_RATIO: Final = 0.15
IDENTITY: Final = "身份"
"""Prefix of the section heads about the model's identity."""


@dataclass(frozen=True)
class Topic:
    """One topic of conversation."""

    name: str
    """Its head in `words/talk.txt`."""
    questions: tuple[str, ...]
    """Wordings of the question."""
    answers: tuple[str, ...]
    """Answers to any of them, the most usual first."""
    usual_answers: tuple[str, ...]
    """The same as a skewed table to pick from."""


@cache
def read_topics(*, identity: bool) -> tuple[Topic, ...]:
    """The topics about the model's identity, or all others."""
    sections = read_sections("talk")
    return tuple(_topic(head, first_fields(entries)) for head, entries in sections.items() if head.startswith(IDENTITY) == identity)


def _topic(name: str, lines: list[str]) -> Topic:
    questions = tuple(line[2:] for line in lines if line.startswith("问 "))
    answers = tuple(line[2:] for line in lines if line.startswith("答 "))
    return Topic(name, questions, answers, skewed(answers, ANSWER_RATIO))
