"""Items that the shops sell: types, attributes, values, and which values one item can combine."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from imprint.demo.rng import Rng, one_in, skewed, weighted
from imprint.demo.words import read_sections

HELD_OUT: Final = 40
"""One pair of values in HELD_OUT occurs only in the dev file."""
SIZES: Final = weighted([(3, 1), (4, 4), (5, 6), (6, 5), (7, 2)])
"""Number of attributes besides the type, with weights."""
TYPE_WEIGHTS: Final = weighted([("上", 30), ("裙", 25), ("裤", 18), ("鞋", 10), ("包", 10), ("帽", 4), ("巾", 3)])
SEASONS: Final = {"冬": "夏", "夏": "冬"}
KEY_OWNERS: Final = {"衣": "上", "裙": "裙", "裤": "裤", "鞋": "鞋", "包": "包", "帽": "帽", "围": "巾"}
"""First character of an attribute of only one type -> that type."""
GOWN_KEYS: Final = ("裙领型", "裙袖型")
"""A skirt with a collar or sleeves is a dress."""
COMMON_KEYS: Final = ("材质", "颜色", "风格", "图案")
"""Attributes of every type that are drawn more often."""
KEY_ORDER: Final = "材质 颜色 风格 图案 版型 样式 裙型 裤型 大小 领型 袖型 袖长 衣长 裙长 裤长 门襟 腰型"
"""Suffixes of attribute names in the order of attribute lists; other names follow."""
BENEFIT_RATIO: Final = 0.4


@dataclass(frozen=True)
class ItemType:
    """A type of item."""

    code: str
    """The character that the word lists use for it."""
    name: str
    """Its name in an attribute list."""
    noun: str
    """Its noun in a sentence, unless a value gives a more specific one."""
    measure: str
    """Its measure word."""
    subtype_attribute: str
    """The attribute whose value is a more specific noun; empty for none."""


KINDS: Final = {
    kind.code: kind
    for kind in (
        ItemType("上", "上衣", "上衣", "件", "衣样式"),
        ItemType("裙", "裙", "裙子", "条", "裙型"),
        ItemType("裤", "裤", "裤子", "条", "裤型"),
        ItemType("鞋", "鞋", "鞋子", "双", "鞋样式"),
        ItemType("包", "包", "包包", "只", "包样式"),
        ItemType("帽", "帽", "帽子", "顶", "帽样式"),
        ItemType("巾", "围巾", "围巾", "条", "围巾样式"),
    )
}


@dataclass(frozen=True, eq=False)
class Value:
    """A value of an attribute, with its benefits."""

    attribute: str
    """The attribute, as in an attribute list."""
    word: str
    """The value itself."""
    season: str
    """冬 or 夏 if it belongs to one season; else empty."""
    benefits: tuple[str, ...]
    """Benefits that ad copy may mention, the most usual first."""
    usual_benefits: tuple[str, ...] = field(repr=False)
    """The same as a skewed table to pick from."""


@dataclass(frozen=True)
class Item:
    """One item with its attributes."""

    kind: ItemType
    """Its type."""
    values: tuple[Value, ...]
    """Its attribute values in the order of the list; an attribute may occur twice."""

    @property
    def content(self) -> str:
        """The attribute list, as ADGEN writes it: 类型#上衣*材质#牛仔布*..."""
        return "*".join([f"类型#{self.kind.name}", *[f"{value.attribute}#{value.word}" for value in self.values]])

    def find(self, key: str) -> Value | None:
        """The first value of an attribute; None if the item does not have it."""
        return next((value for value in self.values if value.attribute == key), None)

    @property
    def noun(self) -> str:
        """Its noun in a sentence."""
        subtype = self.find(self.kind.subtype_attribute)
        if subtype is not None:
            return subtype.word
        is_gown = any(value.attribute in GOWN_KEYS or value.word == "露背" for value in self.values)
        return "连衣裙" if is_gown else self.kind.noun


Pair = tuple[Value, Value]


@dataclass(frozen=True)
class Goods:
    """All values, and the pairs of values that are impossible or held out."""

    values: Mapping[str, Mapping[str, tuple[Value, ...]]]
    """Type's code -> attribute -> its values, in the order of attribute lists."""
    keys: Mapping[str, tuple[str, ...]]
    """Type's code -> a weighted table of its attributes."""
    clashing: frozenset[Pair]
    """Pairs of values, in both orders, that no item combines."""
    held_out: frozenset[Pair]
    """Pairs of values, in both orders, that neither the corpus nor a training row combines."""

    def draw(self, rng: Rng) -> Item:
        """An item without a held-out pair, for the corpus and for training rows."""
        while True:
            item = self._draw(rng)
            if item is not None and not self.is_held_out(item):
                return item

    def draw_held_out(self, rng: Rng) -> Item:
        """An item with at least one held-out pair, for the dev rows."""
        while True:
            item = self._draw(rng)
            if item is not None and self.is_held_out(item):
                return item

    def is_held_out(self, item: Item) -> bool:
        """Whether two of its values are a held-out pair."""
        held_out = self.held_out
        return any((one, other) in held_out for index, one in enumerate(item.values) for other in item.values[:index])

    def _draw(self, rng: Rng) -> Item | None:
        """A random item; None if too few of the values drawn fit together."""
        code = rng.pick(TYPE_WEIGHTS)
        by_key, keys, size = self.values[code], self.keys[code], rng.pick(SIZES)
        chosen: list[Value] = []
        for _ in range(size + 4):
            value = rng.pick(by_key[rng.pick(keys)])
            if all(value.attribute != other.attribute and (value, other) not in self.clashing for other in chosen):
                chosen.append(value)
                if len(chosen) == size:
                    break
        if len(chosen) < 3:
            return None
        order = {key: index for index, key in enumerate(by_key)}
        chosen.sort(key=lambda value: order[value.attribute])
        if rng.chance(0.1):
            index = rng.below(len(chosen) - 1)
            chosen[index], chosen[index + 1] = chosen[index + 1], chosen[index]
        return Item(KINDS[code], tuple(chosen))


@cache
def read_goods() -> Goods:
    """The goods of `words/goods.txt` and `words/clashes.txt`."""
    values: dict[str, dict[str, list[Value]]] = {code: {} for code in KINDS}
    for head, entries in read_sections("goods").items():
        codes, *keys = head.split()
        for key in keys:
            owner = KEY_OWNERS.get(key[0])
            read = [_read_value(key, entry) for entry in entries]
            for code in codes if owner is None else [owner]:
                values[code].setdefault(key, []).extend(read)
    frozen = {code: {key: tuple(by_key[key]) for key in sorted(by_key, key=_key_rank)} for code, by_key in values.items()}
    return Goods(
        values=frozen,
        keys={code: tuple(_key_table(KINDS[code], list(by_key))) for code, by_key in frozen.items()},
        clashing=frozenset(_clashing_pairs(frozen)),
        held_out=frozenset(_held_out_pairs(frozen)),
    )


def _read_value(key: str, entry: list[str]) -> Value:
    word, _, season = entry[0].partition(" ")
    return Value(key, word, season, tuple(entry[1:]), skewed(entry[1:], BENEFIT_RATIO))


def _key_rank(key: str) -> int:
    order = KEY_ORDER.split()
    return next((index for index, ending in enumerate(order) if key.endswith(ending)), len(order))


def _key_table(kind: ItemType, keys: list[str]) -> Iterator[str]:
    for key in keys:
        times = 4 if key == kind.subtype_attribute else 3 if key in COMMON_KEYS else 1 if key == "版型" else 2
        yield from [key] * times


def _pairs(values: Mapping[str, Mapping[str, tuple[Value, ...]]]) -> Iterator[Pair]:
    for by_key in values.values():
        values_of_type = [value for values_of_key in by_key.values() for value in values_of_key]
        yield from ((one, other) for one in values_of_type for other in values_of_type if one is not other)


def _clashing_pairs(values: Mapping[str, Mapping[str, tuple[Value, ...]]]) -> Iterator[Pair]:
    named: dict[str, set[str]] = {}
    for left, right in read_sections("clashes")["不相配"]:
        for name in left.split():
            named.setdefault(name, set()).update(right.split())
    for one, other in _pairs(values):
        banned = named.get(one.word, set()) | named.get(one.attribute, set())
        seasons_differ = one.season != "" and SEASONS[one.season] == other.season
        if seasons_differ or other.word in banned or other.attribute in banned or one.word == other.word:
            yield from ((one, other), (other, one))


def _held_out_pairs(values: Mapping[str, Mapping[str, tuple[Value, ...]]]) -> Iterator[Pair]:
    for one, other in _pairs(values):
        names = sorted([f"{one.attribute}#{one.word}", f"{other.attribute}#{other.word}"])
        if one_in(HELD_OUT, "*".join(names)):
            yield one, other
