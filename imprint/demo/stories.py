"""Plain texts of the corpus: a day in the town, everyday words, and characters of every script."""

from functools import cache
from typing import Final

from imprint.demo.rng import Rng, weighted
from imprint.demo.town import read_town
from imprint.demo.words import read_sections

WORD_FRAMES: Final = (
    "今天学的词：{words}。",
    "词语表：{words}",
    "请认读：{words}。",
    "{one}和{two}，{three}和{four}。",
    "书上说到{one}，也说到{two}和{three}。",
    "老师在黑板上写下“{one}”和“{two}”两个词。",
    "{one}、{two}、{three}，都记住了吗？",
)
ASCII: Final = "".join(chr(code) for code in range(ord("!"), ord("~") + 1))
RARE_RANGES: Final = weighted(
    [((0x4E00, 0x9FA5), 6), ((0xAC00, 0xD7A3), 1), ((0x3041, 0x30FE), 1), ((0x0391, 0x04FF), 1), ((0x1F300, 0x1F64F), 1)]
)
"""First and last code point of scripts whose characters mostly have no piece: Chinese, Korean, Japanese, Greek to Cyrillic, pictures."""
LATIN: Final = (
    "size chart: S M L XL XXL, made in Kite Town",
    "SALE 50% OFF! today only",
    "a little town by the green river",
    "cotton, linen, silk and wool",
    "the shop opens at nine and closes at six",
    "she flies a red kite in the wind",
    "for i in range(10): print(i)",
    "https://kite.example/shop?id={number}",
    "order no. {number}-{digit}, price {number}.{digit}0",
    "tel: 0{digit}{digit}-{number}, e-mail: shop{digit}@kite.example",
    "The quick brown fox jumps over the lazy dog.",
    "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
    "3D print ~ Relax & Dream ~ Row {digit}, No. {number}",
    "Who made this coat? Old Mr Yao made it.",
)
CHINESE_LINES: Final = (
    "货号{number}，尺码{digit}{digit}，价格{number}元。",
    "第{digit}章　第{number}页",
    "电话：{number}{number}；邮编：{number}{digit}",
    "{digit}月{digit}日，晴，{digit}度。",
    "洗涤说明：30℃以下水温，不可漂白，低温熨烫。",
    "成分：棉{digit}{digit}%，其他纤维若干。",
)


@cache
def read_everyday_words() -> tuple[str, ...]:
    """The words of `words/common.txt`."""
    return tuple(word for entry in read_sections("common")["词"] for word in entry[0].split())


def tell_day(rng: Rng) -> str:
    """A short story that is consistent with the facts of the town."""
    town = read_town()
    person = rng.pick(town.people)
    shop = next(shop for shop in town.shops if shop["owner"] == person["name"])
    guest = rng.pick(town.phrases["来客"])
    sentences = [
        f"{rng.pick(town.phrases['早晨'])}，{person['name']}吃了些{person['food']}，推开{shop['name']}的门。",
        f"{shop['street']}上渐渐热闹起来，{guest}走进店里，问有没有{shop['goods']}。",
        f"{rng.pick(town.phrases['午后'])}，{person['name']}一边{person['hobby']}，一边看着{person['animal']}打盹。",
        f"{guest}买了{shop['goods']}，{rng.pick(town.phrases['心情'])}。",
        f"{rng.pick(town.phrases['傍晚'])}，到了{shop['closes']}点，{shop['name']}关了门。",
        f"{person['name']}{rng.pick(town.phrases['心情'])}。",
    ]
    kept = [sentence for sentence in sentences if rng.chance(0.7)]
    return "".join(kept or sentences[:2])


def list_words(rng: Rng) -> str:
    """A list of everyday words, so that the base sees their characters."""
    words = read_everyday_words()
    drawn = [rng.pick(words) for _ in range(4 + rng.below(10))]
    filled = rng.pick(WORD_FRAMES).replace("{words}", "、".join(drawn))
    for name, word in zip(("{one}", "{two}", "{three}", "{four}"), drawn, strict=False):
        filled = filled.replace(name, word)
    return filled


def write_odd_text(rng: Rng) -> str:
    """Latin letters, digits, or characters that fall back to bytes."""
    if rng.chance(0.5):
        line = rng.pick(LATIN if rng.chance(0.6) else CHINESE_LINES)
        while "{number}" in line or "{digit}" in line:
            line = line.replace("{number}", str(10 + rng.below(9990)), 1).replace("{digit}", str(1 + rng.below(9)), 1)
        return line
    if rng.chance(0.1):
        return "".join([rng.pick(ASCII) for _ in range(4 + rng.below(12))])
    first, last = rng.pick(RARE_RANGES)
    drawn = "".join([chr(first + rng.below(last - first + 1)) for _ in range(2 + rng.below(8))])
    return f"生僻字：{drawn}" if rng.chance(0.5) else f"“{drawn}”怎么读？"
