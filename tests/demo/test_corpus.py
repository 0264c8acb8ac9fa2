from hashlib import sha256
from itertools import islice

from imprint.demo.corpus import SHARES, documents


def test_the_stream_is_the_same_on_every_machine() -> None:
    text = "\n".join([repr((sample.query, sample.answer, sample.history)) for sample in islice(documents(0), 200)])
    assert sha256(text.encode()).hexdigest()[:16] == "c5c3f593c304b45e"


def test_two_seeds_give_two_streams() -> None:
    assert [s.answer for s in islice(documents(1), 20)] != [s.answer for s in islice(documents(2), 20)]


def test_the_shares_are_parts_of_a_hundred() -> None:
    assert sum(SHARES.values()) == 100


def test_ad_copy_never_answers_an_attribute_list() -> None:
    for sample in islice(documents(3), 5000):
        assert sample.answer
        if "#" in sample.query:
            assert "是" in sample.answer or "属性如下" in sample.answer
            assert not any(mark in sample.answer for mark in ("【", "搭配", "选用"))
        assert "类型#" not in sample.answer


def test_some_questions_stand_in_a_conversation() -> None:
    samples = list(islice(documents(4), 3000))
    talked = [sample for sample in samples if sample.history]
    assert 0.02 < len(talked) / len(samples) < 0.2
    assert any(sample.query.startswith(("那", "它")) for sample in talked)
