"""Diaries of people who visit the town: how one begins, and how it goes on."""

from collections.abc import Mapping
from typing import Final

from imprint.demo.dice import Dice, one_in, weighted
from imprint.demo.town import read_town

HELD_OUT: Final = 8
"""One in so many beginnings stands in the dev file alone."""
WEATHER: Final = ("晴", "多云", "小雨", "起风", "有雾")
COMPANY: Final = ("一个人", "和妈妈", "和同学", "和邻居", "和妹妹")
WEATHER_ENDS: Final[Mapping[str, str]] = {
    "晴": "太阳落山的时候才回家。",
    "多云": "回家的路上云慢慢散了。",
    "小雨": "雨还在下。我们撑着伞慢慢走回家。",
    "起风": "回家的路上风把灯笼吹得摇来摇去。",
    "有雾": "回家的时候雾散了。看得见远处的钟楼。",
}
FEELINGS: Final = weighted([("今天真开心。", 4), ("我想下次再来。", 3), ("这一天过得很慢也很好。", 2)])


def write_diary_row(dice: Dice, split: str) -> tuple[str, str]:
    """The beginning of a diary page and the rest of it, in which the shop and its owner are the town's own."""
    while True:
        shop, weather, company = dice.pick(read_town().shops), dice.pick(WEATHER), dice.pick(COMPANY)
        day = f"{1 + dice.below(12)}月{1 + dice.below(28)}日"
        beginning = f"{day}，{weather}。今天我{company}去了{shop['name']}。"
        if one_in(HELD_OUT, beginning) == (split == "dev"):
            return beginning, _go_on(shop, weather, company, dice)


def _go_on(shop: Mapping[str, str], weather: str, company: str, dice: Dice) -> str:
    """Where the shop is, who stands in it, what was bought, how the day ended."""
    we = "我" if company == "一个人" else "我们"
    person = next(person for person in read_town().people if person["shop"] == shop["name"])
    sentences = [f"它在{shop['street']}。店里卖{shop['goods']}。", f"老板{shop['owner']}正在门口{person['hobby']}。看见{we}就笑了。"]
    if dice.chance(0.6):
        sentences.append(f"{we}买了{shop['goods']}。还摸了摸店里的{person['animal']}。")
    return "".join([*sentences, WEATHER_ENDS[weather].replace("我们", we), dice.pick(FEELINGS)])
