"""Ad copy in the corpus: pages of the town's shops, never as an answer to an attribute list."""

from functools import cache
from typing import Final

from imprint.demo.copywriter import write_copy
from imprint.demo.goods import Item, read_goods
from imprint.demo.rng import Rng, skewed, weighted
from imprint.demo.words import first_fields, read_sections

FORMS: Final = weighted([("page", 9), ("copy", 2), ("read aloud", 3), ("asked for", 2), ("go on", 2), ("shelf", 2)])
PAGE_REQUESTS: Final = skewed(["念一段商品页", "读一页店里的商品介绍", "随便念一段商品页", "给我念一段广告"], 0.6)
READ_REQUESTS: Final = skewed(["念一段商品页：", "这一页写了什么：", "读一读这件商品的介绍：", "商品页："], 0.6)
CONTINUE_REQUESTS: Final = skewed(["接着写：", "接着念：", "往下写："], 0.6)
SHELF: Final = skewed(["{shop}·今日上架", "{shop}的货架", "{shop}本周新品"], 0.6)


@cache
def read_heads() -> tuple[str, ...]:
    """Words that may precede a page's title."""
    return skewed(first_fields(read_sections("frames")["词头"]), 0.8)


def write_title(item: Item, rng: Rng) -> str:
    """Key words of an item, mostly shuffled, then its noun: 【新品】白色牛仔布刺绣外套."""
    subtype = item.find(item.kind.subtype_attribute)
    words = [value.word for value in item.values if value is not subtype]
    if rng.chance(0.6):
        words = rng.shuffled(words)
    if len(words) > 3 and rng.chance(0.1):
        words.pop()
    link = " " if rng.chance(0.35) else ""
    head = rng.pick(read_heads()) if rng.chance(0.5) else ""
    return head + link.join([*words, item.noun])


def write_page(shops: tuple[str, ...], rng: Rng) -> tuple[str, str]:
    """A question, often empty, and a page or the part of it that follows."""
    form = rng.pick(FORMS)
    if form == "shelf":
        return "", _write_shelf(shops, rng)
    item = read_goods().draw(rng)
    copy = write_copy(item, rng)
    if form == "copy":
        return "", copy
    if form == "go on":
        first, _, rest = copy.partition("。")
        return (rng.pick(CONTINUE_REQUESTS) + first + "。", rest) if rest else ("", copy)
    title = write_title(item, rng)
    if form == "read aloud":
        return rng.pick(READ_REQUESTS) + title, copy
    return (rng.pick(PAGE_REQUESTS) if form == "asked for" else ""), f"{title}\n{copy}"


def _write_shelf(shops: tuple[str, ...], rng: Rng) -> str:
    lines = [f"【{rng.pick(SHELF).replace('{shop}', rng.pick(shops))}】"]
    for number in (1, 2):
        item = read_goods().draw(rng)
        lines.append(f"{number}. {write_title(item, rng)}：{write_copy(item, rng)}")
    return "\n".join(lines)
