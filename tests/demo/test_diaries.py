from imprint.demo.diaries import write_diary_row
from imprint.demo.rng import Rng
from imprint.demo.town import read_town


def test_a_page_goes_on_about_the_shop_that_it_began_with() -> None:
    rng = Rng(0)
    for _ in range(200):
        beginning, rest = write_diary_row(rng, "train")
        (shop,) = [shop for shop in read_town().shops if f"去了{shop['name']}。" in beginning]
        assert all(shop[what] in rest for what in ("street", "goods"))
        assert "{" not in rest


def test_who_went_alone_says_i() -> None:
    rng = Rng(1)
    for _ in range(200):
        beginning, rest = write_diary_row(rng, "train")
        assert not ("我们" in rest and "一个人" in beginning)
