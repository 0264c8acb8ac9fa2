from itertools import islice

from imprint.demo.goods import KINDS, SEASONS, read_goods
from imprint.demo.rng import Rng
from imprint.demo.words import read_sections


def test_there_are_hundreds_of_values() -> None:
    values = {(v.attribute, v.word) for by_key in read_goods().values.values() for found in by_key.values() for v in found}
    assert len(values) >= 400


def test_every_value_has_several_benefits_and_no_benefit_is_written_twice() -> None:
    for by_key in read_goods().values.values():
        for found in by_key.values():
            for value in found:
                assert 2 <= len(set(value.benefits)) == len(value.benefits) <= 4, value
                assert value.usual_benefits[0] == value.benefits[0]


def test_an_attribute_list_reads_as_adgen_writes_it() -> None:
    goods = read_goods()
    names = {kind.name: kind.code for kind in KINDS.values()}
    rng = Rng(1)
    for _ in range(500):
        item = goods.draw(rng)
        (type_key, name), *pairs = [part.split("#") for part in item.content.split("*")]
        assert type_key == "类型"
        assert 3 <= len(pairs) <= 7
        assert len({key for key, _ in pairs}) == len(pairs)
        for key, word in pairs:
            assert word in {value.word for value in goods.values[names[name]][key]}


def test_winter_never_meets_summer_nor_a_word_its_clash() -> None:
    goods = read_goods()
    rng = Rng(2)
    for _ in range(2000):
        values = goods.draw(rng).values
        seasons = {value.season for value in values}
        assert not any(season in seasons and other in seasons for season, other in SEASONS.items())
        assert not any((one, other) in goods.clashing for one in values for other in values if one is not other)


def test_every_word_of_the_clashes_is_a_value_or_an_attribute() -> None:
    goods = read_goods()
    known = {name for by_key in goods.values.values() for key, found in by_key.items() for name in (key, *[v.word for v in found])}
    named = {word for entry in read_sections("clashes")["不相配"] for side in entry for word in side.split()}
    assert named - known == set()


def test_every_value_can_be_drawn_for_training() -> None:
    goods = read_goods()
    rng = Rng(3)
    drawn = {value for item in islice(iter(lambda: goods.draw(rng), None), 30_000) for value in item.values}
    missing = {v for by_key in goods.values.values() for found in by_key.values() for v in found} - drawn
    assert not missing, [(value.attribute, value.word) for value in missing]


def test_training_never_draws_a_held_out_pair_and_dev_always_does() -> None:
    goods = read_goods()
    rng = Rng(4)
    assert not any(goods.is_held_out(goods.draw(rng)) for _ in range(2000))
    assert all(goods.is_held_out(goods.draw_held_out(rng)) for _ in range(500))
