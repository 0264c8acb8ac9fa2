"""Classification rows: messages of customers to a shop, labelled by topic."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from imprint.demo.rng import Rng, one_in, weighted

HELD_OUT: Final = 8
"""One message in HELD_OUT is in the dev file only."""
LABELS: Final = ("尺码", "质量", "物流", "价格", "夸奖")
CLAUSES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "尺码": (
            "{thing}太大了一号",
            "{thing}穿着有点紧",
            "不知道{thing}该选多大的",
            "{thing}的腰围不合身",
            "我身高一米{number}，{thing}长了一截",
            "{thing}的肩膀这里太窄",
            "{thing}比平时穿的小了一圈",
            "想问{thing}有没有大一码的",
            "{thing}的长短不合适",
        ),
        "质量": (
            "{thing}洗了一次就起球",
            "{thing}的线头很多",
            "{thing}掉色掉得厉害",
            "{thing}刚穿就破了个洞",
            "{thing}的拉链坏了",
            "{thing}的面料太薄，像纸一样",
            "{thing}上有一块洗不掉的印子",
            "{thing}的纽扣掉了{number}颗",
            "{thing}一洗就缩水变形",
        ),
        "物流": (
            "{thing}等了{number}天还没送到",
            "{thing}寄到了别的街上",
            "不知道{thing}走到哪里了",
            "送{thing}的人一直没有来",
            "{thing}的包裹在路上压坏了",
            "{thing}什么时候能寄出来",
            "{thing}在路上走得太慢",
            "想把{thing}送到{street}去",
            "{thing}少寄了一件",
        ),
        "价格": (
            "{thing}比别家贵了{number}元",
            "{thing}能不能便宜一点",
            "昨天买的{thing}今天就降价了",
            "{thing}还有没有打折",
            "{thing}卖{number}元太贵了",
            "{thing}多收了我{number}元",
            "买{number}件{thing}可以少算一些钱吗",
            "{thing}的价钱和说好的不一样",
            "{thing}涨价涨得太快",
        ),
        "夸奖": (
            "{thing}真好看",
            "家里人都说{thing}很漂亮",
            "{thing}穿着特别舒服",
            "{thing}我非常喜欢",
            "{thing}的颜色和图上一样美",
            "{thing}做得很用心",
            "穿上{thing}心情都好了",
            "朋友也想买一样的{thing}",
            "{thing}让我很满意",
        ),
    }
)
"""Label -> clauses about an item; the last `UNSEEN` of each are in no training row."""
UNSEEN: Final = 2
UNSEEN_SHARE: Final = 0.25
"""Share of held-out messages with a clause that no training row has."""
TWO_TOPIC_FRAMES: Final = (
    "{minor}就算了，主要是{major}。",
    "{minor}我不在意，可是{major}。",
    "不说{minor}，我想说的是{major}。",
    "{major}，至于{minor}，那是小事。",
    "先说{major}，{minor}以后再说。",
    "虽然{minor}，但是更重要的是{major}。",
)
"""Frames of messages about two topics; the label is that of {major}."""
TWO_TOPIC_SHARE: Final = 0.45
OPENINGS: Final = weighted([("", 8), ("你好，", 4), ("老板，", 3), ("请问在吗？", 2), ("打扰了，", 1), ("店家你好，", 2)])
ENDINGS: Final = weighted([("", 8), ("谢谢。", 3), ("麻烦看一下。", 2), ("等你回复。", 2)])
THINGS: Final = ("外套", "裙子", "裤子", "鞋子", "帽子", "围巾", "衬衫", "毛衣", "包包", "连衣裙")
STREETS: Final = ("梧桐街", "槐树巷", "桂花街", "柳叶巷", "石板街", "灯笼巷")


def write_message_row(rng: Rng, split: str) -> tuple[str, str]:
    """A message and its label; labels are equally frequent, and no dev message is in the training rows."""
    while True:
        message, label = _draw(rng, split)
        if one_in(HELD_OUT, message) == (split == "dev"):
            return message, label


def _draw(rng: Rng, split: str) -> tuple[str, str]:
    label = rng.pick(LABELS)
    thing = rng.pick(("这件", "我买的", "你家的", "")) + rng.pick(THINGS)
    major = _draw_clause(label, thing, rng, split)
    if rng.chance(TWO_TOPIC_SHARE):
        minor = _draw_clause(rng.pick([other for other in LABELS if other != label]), rng.pick(THINGS), rng, split)
        text = rng.pick(TWO_TOPIC_FRAMES).replace("{minor}", minor).replace("{major}", major)
    else:
        text = major + "。"
    return rng.pick(OPENINGS) + text + rng.pick(ENDINGS), label


def _draw_clause(label: str, thing: str, rng: Rng, split: str) -> str:
    clauses = CLAUSES[label]
    unseen = split == "dev" and rng.chance(UNSEEN_SHARE)
    clause = rng.pick(clauses[-UNSEEN:] if unseen else clauses[:-UNSEEN])
    number = str(2 + rng.below(88))
    return clause.replace("{thing}", thing).replace("{number}", number).replace("{street}", rng.pick(STREETS))
