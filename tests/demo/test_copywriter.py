import pytest

from imprint.demo.copywriter import read_phrasebook, write_copy
from imprint.demo.goods import KINDS, Item, read_goods
from imprint.demo.rng import Rng

FOREIGN = {
    "上": ("裙摆", "裤脚", "裤", "鞋", "帽身", "腿型"),
    "裙": ("裤", "鞋", "帽檐", "袖口"),
    "裤": ("领口", "袖", "裙摆", "裙边", "鞋", "帽", "门襟", "手臂", "锁骨"),
    "鞋": ("领口", "袖", "裙摆", "裤脚", "帽", "门襟", "手臂", "腰", "锁骨"),
    "包": ("领口", "袖", "裙摆", "裤", "帽", "门襟", "手臂", "锁骨", "腿"),
    "帽": ("领口", "袖", "裙", "裤", "鞋", "门襟", "手臂", "腰", "腿"),
    "巾": ("领口", "袖", "裙", "裤", "鞋", "帽", "门襟", "手臂", "腰", "腿"),
}
"""Words that make a reader wince in copy for a type; a thing's own value may hold them (裙裤), and endings may name what goes with it."""
ALLOWED = ("配裙子裤子都好看", "让双腿更好看")


def draw(count: int, seed: int) -> list[tuple[Item, str]]:
    goods, rng = read_goods(), Rng(seed)
    items = [goods.draw(rng) for _ in range(count)]
    return [(item, write_copy(item, rng)) for item in items]


def test_copy_tells_every_value() -> None:
    for item, copy in draw(1000, 6):
        assert all(value.word in copy for value in item.values), (item.content, copy)


@pytest.mark.parametrize("code", KINDS)
def test_no_copy_names_a_part_that_its_thing_does_not_have(code: str) -> None:
    for item, copy in draw(3000, 7):
        if item.kind.code == code:
            words = [*[value.word for value in item.values], *ALLOWED]
            text = copy
            for word in words:
                text = text.replace(word, "")
            assert not [part for part in FOREIGN[code] if part in text], (item.content, copy)


def test_no_benefit_of_another_value_slips_in() -> None:
    book = read_phrasebook()
    benefits = {b for by_key in read_goods().values.values() for found in by_key.values() for v in found for b in v.benefits}
    generic = {claim for claims in (*book.claims.values(), *book.endings.values()) for claim in claims}
    for item, copy in draw(300, 8):
        own = {benefit for value in item.values for benefit in value.benefits} | generic
        text = copy
        for phrase in sorted(own, key=len, reverse=True):
            text = text.replace(phrase, "|")
        assert not [benefit for benefit in benefits - own if len(benefit) > 4 and benefit in text], (item.content, copy)


def test_copy_has_the_length_of_a_short_advertisement_and_ends_with_a_full_stop() -> None:
    lengths = sorted(len(copy) for _, copy in draw(1000, 9))
    assert lengths[0] >= 25
    assert lengths[-1] <= 100
    assert 50 <= lengths[500] <= 75
    for _, copy in draw(300, 10):
        assert copy.endswith("。")
        assert not any(mark in copy for mark in ("{", "}", "，。", "。。", "，，", "风风"))


def test_copies_hardly_ever_repeat() -> None:
    copies = [copy for _, copy in draw(3000, 11)]
    assert len(set(copies)) >= 0.99 * len(copies)


def test_one_list_has_many_copies() -> None:
    rng = Rng(12)
    item = read_goods().draw(rng)
    assert len({write_copy(item, rng) for _ in range(200)}) > 150
