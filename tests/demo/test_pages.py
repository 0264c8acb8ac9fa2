from imprint.demo.goods import read_goods
from imprint.demo.pages import write_page, write_title
from imprint.demo.rng import Rng


def test_a_title_ends_with_the_noun_and_names_the_values() -> None:
    goods, rng = read_goods(), Rng(1)
    missing = 0
    for _ in range(300):
        item = goods.draw(rng)
        title = write_title(item, rng)
        assert title.endswith(item.noun)
        missing += sum(value.word not in title for value in item.values)
    assert missing < 50


def test_a_page_never_holds_an_attribute_list() -> None:
    rng = Rng(2)
    for _ in range(1000):
        query, answer = write_page(("布朵坊",), rng)
        assert answer.endswith("。")
        assert "#" not in query + answer


def test_pages_come_in_many_forms() -> None:
    rng = Rng(3)
    pages = [write_page(("布朵坊",), rng) for _ in range(500)]
    assert any(query == "" and "\n1. " in answer for query, answer in pages)
    assert any(query.startswith("接着") for query, _ in pages)
    assert any(query.startswith("念一段商品页：") and "\n" not in answer for query, answer in pages)
