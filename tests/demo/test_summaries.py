from imprint.demo.dice import Dice
from imprint.demo.goods import read_goods
from imprint.demo.summaries import summarize, write_summary_row


def test_a_summary_names_every_attribute_that_the_ad_tells() -> None:
    goods, dice = read_goods(), Dice(0)
    for _ in range(200):
        item = goods.draw(dice)
        line = summarize(item)
        assert all(value.word in line for value in item.values), line
        assert line.startswith(f"一{item.kind.measure}")
        assert line.endswith("。")


def test_a_summary_is_shorter_than_its_ad() -> None:
    dice = Dice(1)
    for split in ("train", "dev"):
        assert all(len(answer) < len(ad) for ad, answer in (write_summary_row(dice, split) for _ in range(100)))
