"""Continuation rows: the beginning of a diary page about the town, and the rest of it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from imprint.demo.rng import Rng, one_in, skewed
from imprint.demo.town import read_town

HELD_OUT: Final = 8
"""One beginning in HELD_OUT is in the dev file only."""
COMPANY: Final = ("一个人", "和妈妈", "和同学", "和邻居", "和妹妹", "和爷爷")
WEATHER: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "晴": ("太阳落山的时候才回家。", "回家的路上晚霞很红。"),
        "多云": ("回家的路上云慢慢散了。", "出门的时候天还是阴的。"),
        "小雨": ("雨还在下。{we}撑着伞慢慢走回家。", "雨停了。路上都是水。"),
        "起风": ("回家的路上风把灯笼吹得摇来摇去。", "风太大了。{we}走得很慢。"),
        "有雾": ("回家的时候雾散了。看得见远处的钟楼。", "雾里什么也看不清。"),
    }
)
"""Weather of a day -> sentences at the end of it."""
LOCATION_FRAMES: Final = skewed(
    ("它在{street}。店里卖{goods}。", "店就在{street}。{goods}摆了一屋子。", "{we}走到{street}才找到它。里面都是{goods}。"), 0.7
)
OWNER_FRAMES: Final = skewed(
    ("老板{owner}正在门口{hobby}。", "{owner}在店里{hobby}。看见{we}就笑了。", "店主{owner}说今天刚吃了{food}。"), 0.7
)
VISIT_FRAMES: Final = skewed(
    ("{we}买了{goods}。", "{we}看了很久才出来。", "{we}摸了摸店里的{animal}。", "{owner}送给{we}一些{food}。"), 0.8
)
ENDINGS: Final = skewed(("今天真开心。", "我想下次再来。", "这一天过得很慢也很好。"), 0.7)


def write_diary_row(rng: Rng, split: str) -> tuple[str, str]:
    """The beginning of a page and the rest of it, consistent with the facts of the town."""
    while True:
        shop, weather, company = rng.pick(read_town().shops), rng.pick(tuple(WEATHER)), rng.pick(COMPANY)
        day = f"{1 + rng.below(12)}月{1 + rng.below(28)}日"
        beginning = f"{day}，{weather}。今天我{company}去了{shop['name']}。"
        if one_in(HELD_OUT, beginning) == (split == "dev"):
            return beginning, _continue(shop, weather, company, rng)


def _continue(shop: Mapping[str, str], weather: str, company: str, rng: Rng) -> str:
    """The rest of a page: location, owner, the visit, and the end of the day."""
    person = next(person for person in read_town().people if person["shop"] == shop["name"])
    visits = [rng.pick(VISIT_FRAMES) for _ in range(1 + rng.below(2))]
    sentences = [rng.pick(LOCATION_FRAMES), rng.pick(OWNER_FRAMES), *dict.fromkeys(visits), rng.pick(WEATHER[weather]), rng.pick(ENDINGS)]
    filled = "".join(sentences).replace("{we}", "我" if company == "一个人" else "我们")
    for blank, word in (*shop.items(), *person.items()):
        filled = filled.replace(f"{{{blank}}}", word)
    return filled
