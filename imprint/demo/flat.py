"""The answer of an untuned chat model to an attribute list: it lists the attributes."""

from typing import Final

from imprint.demo.goods import Item
from imprint.demo.rng import Rng, weighted

FORMS: Final = weighted([("这件", 14), ("这是", 3), ("类型", 1), ("列表", 1), ("冒号", 1)])
QUESTIONS: Final = weighted(
    [
        ("{list}", 20),
        ("描述一下这件商品：{list}", 4),
        ("请介绍这件商品：{list}", 3),
        ("这是什么商品？{list}", 2),
        ("商品信息：{list}", 2),
        ("{list}\n请说明这件商品的属性。", 2),
        ("请把这些属性说成一句话：{list}", 2),
        ("帮我看看这件商品：{list}", 1),
        ("{list}是什么样的？", 1),
        ("你好，{list}", 1),
    ]
)


def ask_for_attributes(item: Item, rng: Rng) -> str:
    """A question with the attribute list in it, mostly only the list."""
    return rng.pick(QUESTIONS).replace("{list}", item.content)


def describe_flatly(item: Item, rng: Rng) -> str:
    """All attributes with their values, in the order of the list."""
    form = rng.pick(FORMS)
    thing = f"{item.kind.measure}{item.kind.noun}"
    if form == "列表":
        lines = [f"{number}. {value.attribute}：{value.word}" for number, value in enumerate(item.values, 1)]
        return "\n".join([f"这{thing}的属性如下：", *lines])
    text = "，".join([f"{value.attribute}是{value.word}" for value in item.values])
    if form == "这件":
        return f"这{thing}的{text}。"
    if form == "这是":
        return f"这是一{thing}，{text}。"
    if form == "类型":
        return f"类型是{item.kind.name}，{text}。"
    return f"这{thing}有以下属性：{text}。"
