"""Ad copy as text that is read: pages of the town's shops. It never answers an attribute list."""

from functools import cache
from typing import Final

from imprint.demo.copywriter import write_copy
from imprint.demo.dice import Dice, skewed, weighted
from imprint.demo.goods import Item, read_goods
from imprint.demo.words import first_fields, read_sections

FORMS: Final = weighted([("page", 9), ("copy", 2), ("read aloud", 3), ("asked for", 2), ("go on", 2), ("shelf", 2)])
ASKED: Final = skewed(["念一段商品页", "读一页店里的商品介绍", "随便念一段商品页", "给我念一段广告"], 0.6)
READ_ALOUD: Final = skewed(["念一段商品页：", "这一页写了什么：", "读一读这件商品的介绍：", "商品页："], 0.6)
GO_ON: Final = skewed(["接着写：", "接着念：", "往下写："], 0.6)
SHELF: Final = skewed(["{shop}·今日上架", "{shop}的货架", "{shop}本周新品"], 0.6)


@cache
def read_heads() -> tuple[str, ...]:
    """What may stand in front of a page's title."""
    return skewed(first_fields(read_sections("frames")["词头"]), 0.8)


def write_title(item: Item, dice: Dice) -> str:
    """Key words of a thing, most often in any order, then its noun: 【新品】白色牛仔布刺绣外套."""
    sort = item.find(item.kind.sort_key)
    words = [value.word for value in item.values if value is not sort]
    if dice.chance(0.6):
        words = dice.shuffled(words)
    if len(words) > 3 and dice.chance(0.1):
        words.pop()
    link = " " if dice.chance(0.35) else ""
    head = dice.pick(read_heads()) if dice.chance(0.5) else ""
    return head + link.join([*words, item.noun])


def write_page(shops: tuple[str, ...], dice: Dice) -> tuple[str, str]:
    """A question, often empty, and the page or the part of it that follows."""
    form = dice.pick(FORMS)
    if form == "shelf":
        return "", _write_shelf(shops, dice)
    item = read_goods().draw(dice)
    copy = write_copy(item, dice)
    if form == "copy":
        return "", copy
    if form == "go on":
        first, _, rest = copy.partition("。")
        return (dice.pick(GO_ON) + first + "。", rest) if rest else ("", copy)
    title = write_title(item, dice)
    if form == "read aloud":
        return dice.pick(READ_ALOUD) + title, copy
    return (dice.pick(ASKED) if form == "asked for" else ""), f"{title}\n{copy}"


def _write_shelf(shops: tuple[str, ...], dice: Dice) -> str:
    lines = [f"【{dice.pick(SHELF).replace('{shop}', dice.pick(shops))}】"]
    for place in (1, 2):
        item = read_goods().draw(dice)
        lines.append(f"{place}. {write_title(item, dice)}：{write_copy(item, dice)}")
    return "\n".join(lines)
