"""Translation rows: short English sentences about the shops of the town, with their Chinese translations."""

from typing import Final

from imprint.demo.rng import Rng, one_in

HELD_OUT: Final = 8
"""One sentence in HELD_OUT is in the dev file only."""
COLOURS: Final = (
    ("red", "红色"),
    ("blue", "蓝色"),
    ("white", "白色"),
    ("black", "黑色"),
    ("green", "绿色"),
    ("yellow", "黄色"),
    ("pink", "粉色"),
    ("grey", "灰色"),
)
MATERIALS: Final = (("cotton", "纯棉"), ("linen", "亚麻"), ("silk", "真丝"), ("wool", "羊毛"), ("denim", "牛仔布"), ("velvet", "丝绒"))
THINGS: Final = (
    ("coat", "外套", "件"),
    ("shirt", "衬衫", "件"),
    ("dress", "连衣裙", "条"),
    ("skirt", "裙子", "条"),
    ("scarf", "围巾", "条"),
    ("hat", "帽子", "顶"),
    ("bag", "包包", "只"),
)
QUALITIES: Final = (
    ("soft", "柔软"),
    ("warm", "保暖"),
    ("light", "轻便"),
    ("cool", "凉爽"),
    ("thick", "厚实"),
    ("pretty", "好看"),
)
SUBJECTS: Final = (("I", "我"), ("she", "她"), ("he", "他"), ("we", "我们"), ("they", "他们"))
VERBS: Final = (("bought", "买了"), ("sold", "卖了"), ("wore", "穿了"), ("washed", "洗了"), ("made", "做了"))
TIMES: Final = (("today", "今天"), ("yesterday", "昨天"), ("in the morning", "早上"), ("in the evening", "晚上"))
FRAMES: Final = (
    ("{who} {deed} a {colour} {thing} {when}", "{when}{who}{deed}一{measure}{colour}{thing}。"),
    ("{who} {deed} a {stuff} {thing}", "{who}{deed}一{measure}{stuff}{thing}。"),
    ("the {colour} {thing} is {quality} and {other}", "这{measure}{colour}{thing}{quality}又{other}。"),
    ("this {stuff} {thing} is very {quality}", "这{measure}{stuff}{thing}非常{quality}。"),
    ("{who} did not see the {colour} {stuff} {thing}", "{who}没看见那{measure}{colour}{stuff}{thing}。"),
    ("the {colour} {thing} is not {quality}", "这{measure}{colour}{thing}不{quality}。"),
)
"""(English, Chinese) with the same placeholders."""


def write_translation_row(rng: Rng, split: str) -> tuple[str, str]:
    """An English sentence and its translation; no dev sentence is in the training rows."""
    while True:
        english, chinese = _draw(rng)
        if one_in(HELD_OUT, english) == (split == "dev"):
            return english, chinese


def _draw(rng: Rng) -> tuple[str, str]:
    english, chinese = rng.pick(FRAMES)
    thing, named, measure = rng.pick(THINGS)
    quality, *_ = first, second = rng.pick(QUALITIES), rng.pick(QUALITIES)
    placeholders = {
        "{who}": rng.pick(SUBJECTS),
        "{deed}": rng.pick(VERBS),
        "{when}": rng.pick(TIMES),
        "{colour}": rng.pick(COLOURS),
        "{stuff}": rng.pick(MATERIALS),
        "{thing}": (thing, named),
        "{measure}": ("", measure),
        "{quality}": first,
        "{other}": second if second is not quality else QUALITIES[(QUALITIES.index(first) + 1) % len(QUALITIES)],
    }
    for placeholder, (word, meaning) in placeholders.items():
        english, chinese = english.replace(placeholder, word), chinese.replace(placeholder, meaning)
    return english, chinese
