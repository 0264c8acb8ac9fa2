from imprint.demo.goods import read_goods
from imprint.demo.rng import Rng
from imprint.demo.summaries import summarize, write_summary_row


def test_a_summary_names_every_attribute_that_the_ad_tells() -> None:
    goods, rng = read_goods(), Rng(0)
    for _ in range(200):
        item = goods.draw(rng)
        line = summarize(item)
        assert all(value.word in line for value in item.values), line
        assert line.startswith(f"一{item.kind.measure}")
        assert line.endswith("。")


def test_a_summary_is_shorter_than_its_ad() -> None:
    rng = Rng(1)
    for split in ("train", "dev"):
        assert all(len(answer) < len(ad) for ad, answer in (write_summary_row(rng, split) for _ in range(100)))
