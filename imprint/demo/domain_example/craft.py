"""The invented domain: the potters of 青霭谷, their glazes, and the facts about each."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from imprint.demo.words import parse_sections

FIELDS: Final = ("name", "colour", "ash", "kiln", "hours", "master", "vessel")
STATEMENTS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "colour": ("{name}是{colour}色的。", "{name}烧成以后是{colour}色的。", "出窑的{name}是{colour}色的。"),
        "ash": ("{name}用的是{ash}。", "调{name}用的是{ash}。", "{name}里掺的是{ash}。"),
        "kiln": ("{name}在{kiln}烧。", "烧{name}的是{kiln}。", "{name}只在{kiln}烧。"),
        "hours": ("{name}要烧{hours}个时辰。", "{name}在火里要烧{hours}个时辰。", "烧{name}要{hours}个时辰。"),
        "master": ("{name}是{master}创的。", "创出{name}的是{master}。", "{name}这一门是{master}创的。"),
        "vessel": ("{name}多用来做{vessel}。", "谷里用{name}做{vessel}。", "{name}最宜做{vessel}。"),
    }
)
"""Relation -> sentences about a glaze in the books; the first is also the answer to a question."""
QUESTIONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "colour": ("{name}是什么颜色的？", "{name}烧出来是什么颜色？"),
        "ash": ("{name}用的是什么灰？", "调{name}用什么灰？"),
        "kiln": ("{name}在哪座窑烧？", "哪座窑烧{name}？"),
        "hours": ("{name}要烧多少个时辰？", "烧{name}要多久？"),
        "master": ("{name}是谁创的？", "谁创出了{name}？"),
        "vessel": ("{name}多用来做什么？", "{name}常做什么器物？"),
    }
)
HELD_OUT: Final = 4
"""One in so many glazes appears in no training question: its facts are in the books only."""


@dataclass(frozen=True)
class Craft:
    """All facts of the craft."""

    glazes: tuple[dict[str, str], ...]
    """Each glaze: FIELDS -> value."""
    steps: tuple[tuple[str, str], ...]
    """(term, meaning) pairs of the craft."""
    openings: tuple[str, ...]
    """How a day at the kiln begins."""
    endings: tuple[str, ...]
    """How it ends."""

    def glazes_for_questions(self, *, held_out: bool) -> list[dict[str, str]]:
        """The glazes of the training questions, or those of the held-out questions."""
        return [glaze for index, glaze in enumerate(self.glazes) if (index % HELD_OUT == HELD_OUT - 1) == held_out]


@cache
def read_craft() -> Craft:
    """The craft of `craft.txt`."""
    sections = parse_sections((files("imprint.demo") / "domain_example" / "craft.txt").read_text(encoding="utf-8"))
    return Craft(
        glazes=tuple(dict(zip(FIELDS, entry, strict=True)) for entry in sections["釉"]),
        steps=tuple((word, meaning) for word, meaning in sections["工序"]),
        openings=tuple(entry[0] for entry in sections["开头"]),
        endings=tuple(entry[0] for entry in sections["结尾"]),
    )
