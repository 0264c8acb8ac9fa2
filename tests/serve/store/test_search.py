import time

import pytest

from imprint.serve.store.search import has_word, searchable


@pytest.mark.parametrize(
    ("text", "word"),
    [
        *(("un cafe\u0301 noir", "café"), ("un café noir", "cafe\u0301"), ("ＡＢＣ公司", "abc"), ("abc", "ＡＢＣ"), ("ÉCOLE", "école")),
        *(("ﬁle", "file"), ("한글", "\u1112\u1161\u11ab"), ("\u1112\u1161\u11ab글", "한글"), ("ｶﾞ", "ガ"), ("㎏", "kg"), ("门票", "票")),
    ],
)
def test_a_word_is_found_whatever_it_is_composed_of(text: str, word: str) -> None:
    assert has_word(text, word)
    for begin in range(240, 260):  # wherever the text is cut
        assert has_word("公" * begin + text + "园" * 300, word)


def test_another_word_is_not_found() -> None:
    assert not has_word("un cafe noir", "café")
    assert not has_word("门票", "票门")


def test_a_text_of_marks_alone_takes_linear_time() -> None:
    began = time.process_time()
    assert len(searchable("a" + "\u0315\u0300" * 100_000)) > 100_000
    assert time.process_time() - began < 2
