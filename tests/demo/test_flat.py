from imprint.demo.flat import ask_for_attributes, describe_flatly
from imprint.demo.goods import read_goods
from imprint.demo.rng import Rng


def test_a_flat_description_tells_every_value_in_order() -> None:
    goods = read_goods()
    rng = Rng(4)
    for _ in range(300):
        item = goods.draw(rng)
        description = describe_flatly(item, rng)
        places = [
            description.index(f"{value.attribute}{link}{value.word}")
            for value in item.values
            for link in ("是", "：")
            if f"{value.attribute}{link}{value.word}" in description
        ]
        assert len(places) == len(item.values)
        assert places == sorted(places)


def test_a_flat_question_holds_the_list_as_it_stands() -> None:
    rng = Rng(5)
    item = read_goods().draw(rng)
    assert all(item.content in ask_for_attributes(item, rng) for _ in range(50))
