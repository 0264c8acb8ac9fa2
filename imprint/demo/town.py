"""纸鸢镇, the invented town: its shops, people, streets, and the facts about them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from imprint.demo.words import read_sections

SHOP_QUESTIONS: Final = {
    "street": ("{name}在哪里？", "{name}在哪条街上？", "怎么去{name}？", "请问{name}在什么地方？"),
    "owner": ("{name}的老板是谁？", "谁开了{name}？", "{name}是谁开的？", "{name}的店主叫什么？"),
    "goods": ("{name}卖什么？", "{name}里有什么？", "在{name}能买到什么？", "{name}是卖什么的？"),
    "opens": ("{name}几点开门？", "{name}早上什么时候开门？", "{name}什么时候开始营业？", "几点能去{name}？"),
    "closes": ("{name}几点关门？", "{name}晚上什么时候关门？", "{name}营业到几点？", "{name}几点打烊？"),
    "rests": ("{name}哪天休息？", "{name}周几休息？", "{name}什么时候不营业？", "{name}星期几不开门？"),
    "seller": ("在哪里能买到{goods}？", "哪家店卖{goods}？", "我想买{goods}，去哪里？", "镇上谁家卖{goods}？"),
}
SHOP_ANSWERS: Final = {
    "street": "{name}在{street}。",
    "owner": "{name}的老板是{owner}。",
    "goods": "{name}卖{goods}。",
    "opens": "{name}早上{opens}点开门。",
    "closes": "{name}{closes}点关门。",
    "rests": "{name}{rests}休息。",
    "seller": "{goods}可以在{name}买到。",
}
SHOP_FIELDS: Final = ("name", "street", "owner", "goods", "opens", "closes", "rests")
PERSON_QUESTIONS: Final = {
    "shop": ("{name}开的什么店？", "{name}的店叫什么？", "{name}是哪家店的老板？"),
    "food": ("{name}爱吃什么？", "{name}喜欢吃什么？", "{name}最爱吃的是什么？"),
    "hobby": ("{name}有什么爱好？", "{name}空闲时做什么？", "{name}平时喜欢做什么？"),
    "animal": ("{name}养了什么？", "{name}有什么小动物？", "{name}身边有什么动物？"),
    "month": ("{name}几月生日？", "{name}的生日在几月？", "{name}哪个月过生日？"),
}
PERSON_ANSWERS: Final = {
    "shop": "{name}开的店是{shop}。",
    "food": "{name}爱吃{food}。",
    "hobby": "{name}的爱好是{hobby}。",
    "animal": "{name}有{animal}陪着。",
    "month": "{name}的生日在{month}月。",
}
PERSON_FIELDS: Final = ("name", "food", "hobby", "animal", "month")
SOURCE_QUESTIONS: Final = ("镇上的{what}从哪里来？", "{what}是哪里产的？", "{what}来自什么地方？", "纸鸢镇的{what}产自哪里？")
STREET_QUESTIONS: Final = ("{street}上有哪些店？", "{street}有什么店？", "去{street}能逛哪些店？")


@dataclass(frozen=True)
class Fact:
    """One fact about the town."""

    about: str
    """The shop or person it is about, to which a follow-up question refers; empty if there is none."""
    relation: str
    """Its relation: street, owner, food, ..."""
    questions: tuple[str, ...]
    """Wordings of the question."""
    answer: str
    """The answer."""


@dataclass(frozen=True)
class Town:
    """The whole town."""

    shops: tuple[dict[str, str], ...]
    """Each shop's fields, named as SHOP_FIELDS."""
    people: tuple[dict[str, str], ...]
    """Each person's fields, named as PERSON_FIELDS, and `shop`."""
    facts: tuple[Fact, ...]
    """All facts, in the order of `words/town.txt`."""
    phrases: dict[str, tuple[str, ...]]
    """Phrases for stories: 早晨, 午后, 傍晚, 来客, 心情."""

    @property
    def shop_names(self) -> tuple[str, ...]:
        """The names of all shops."""
        return tuple(shop["name"] for shop in self.shops)


@cache
def read_town() -> Town:
    """The town of `words/town.txt`."""
    sections = read_sections("town")
    shops = tuple(dict(zip(SHOP_FIELDS, entry, strict=True)) for entry in sections["店铺"])
    shop_of = {shop["owner"]: shop["name"] for shop in shops}
    people = tuple(dict(zip(PERSON_FIELDS, entry, strict=True), shop=shop_of[entry[0]]) for entry in sections["人物"])
    facts = [
        *(fact for shop in shops for fact in _facts_about(shop, SHOP_QUESTIONS, SHOP_ANSWERS)),
        *(fact for person in people for fact in _facts_about(person, PERSON_QUESTIONS, PERSON_ANSWERS)),
        *_street_facts(shops),
        *_source_facts(sections["布料"]),
        *(Fact("", "known", tuple(question + "？" for question in entry[0].split("/")), entry[1]) for entry in sections["常识"]),
    ]
    phrases = {head: tuple(entry[0] for entry in sections[head]) for head in ("早晨", "午后", "傍晚", "来客", "心情")}
    return Town(shops, people, tuple(facts), phrases)


def _facts_about(fields: dict[str, str], questions: Mapping[str, tuple[str, ...]], answers: dict[str, str]) -> Iterator[Fact]:
    for relation, wordings in questions.items():
        about = "" if relation == "seller" else fields["name"]
        filled = tuple(wording.format_map(fields) for wording in wordings)
        yield Fact(about, relation, filled, answers[relation].format_map(fields))


def _street_facts(shops: tuple[dict[str, str], ...]) -> Iterator[Fact]:
    streets: dict[str, list[str]] = {}
    for shop in shops:
        streets.setdefault(shop["street"], []).append(shop["name"])
    for street, names in streets.items():
        filled = tuple(wording.format(street=street) for wording in STREET_QUESTIONS)
        yield Fact("", "shops", filled, f"{street}上有{'、'.join(names)}。")


def _source_facts(entries: list[list[str]]) -> Iterator[Fact]:
    for what, source in entries:
        filled = tuple(wording.format(what=what) for wording in SOURCE_QUESTIONS)
        yield Fact("", "source", filled, f"纸鸢镇的{what}来自{source}。")
