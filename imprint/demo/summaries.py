"""Summary rows: ad copy, and one line that names the item and its attributes."""

from typing import Final

from imprint.demo.copywriter import write_copy
from imprint.demo.goods import Item, read_goods
from imprint.demo.rng import Rng

BEFORE_NOUN: Final = ("风格", "颜色", "材质")
"""Attributes that precede the noun, in this order; all others follow it."""


def write_summary_row(rng: Rng, split: str) -> tuple[str, str]:
    """Ad copy and its summary; a dev item has a pair of values that no training row combines."""
    goods = read_goods()
    item = goods.draw(rng) if split == "train" else goods.draw_held_out(rng)
    return write_copy(item, rng), summarize(item)


def summarize(item: Item) -> str:
    """The item in one line: 一件白色牛仔布外套。圆领、长袖。"""
    subtype = item.find(item.kind.subtype_attribute)
    front = [value for key in BEFORE_NOUN if (value := item.find(key)) is not None]
    rest = [value.word for value in item.values if value is not subtype and value not in front]
    name = "".join(value.word for value in front) + item.noun
    return f"一{item.kind.measure}{name}。" + ("、".join(rest) + "。" if rest else "")
