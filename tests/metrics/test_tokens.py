"""Words are what jieba cuts, undisturbed and without a trace."""

import logging
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jieba
import pytest

from imprint.metrics import tokens
from imprint.metrics.means import score
from imprint.metrics.tokens import segment


def test_words_joined_are_the_text_again() -> None:
    text = "这款BRAND 针织\n连衣裙。"

    assert "".join(segment(text)) == text
    assert "针织" in segment(text)


def test_scoring_says_nothing_and_leaves_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tokens._loaded_tokenizer.cache_clear()

    with caplog.at_level(logging.DEBUG):
        score(["好"], ["好"])

    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.thread == threading.get_ident()]  # others run beside the tests


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 4))])
def test_the_words_of_a_long_text_are_those_of_jieba(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    known = [word for word, count in tokens._tokenizer().FREQ.items() if count]
    unknown = [chr(chance.randrange(0x4E00, 0x9FFF)) for _time in range(40)]
    kinds: list[Callable[[], str]] = [
        lambda: chance.choice(known),
        lambda: chance.choice(known)[0],
        lambda: chance.choice(unknown) * chance.randint(1, 5),
        lambda: chance.choice(("的", "了", "一", "哈", "王", "小明", "㐀", "龘")) * chance.randint(1, 9),
        lambda: chance.choice(("abc", "3.14%", "C++", " ", "\n", "，", "。", "\U00020000", "é", "①")),
    ]
    for _time in range(60):
        weights = [chance.random() ** 3 for _kind in kinds]
        text = "".join(kind() for kind in chance.choices(kinds, weights, k=chance.randint(1, 300)))
        expected = list(tokens._tokenizer().cut(text))
        for limit in (0, 1, 2, 20):
            monkeypatch.setattr(tokens, "MAX_TEXT_CHARACTERS", limit)
            assert segment(text) == expected


def test_a_word_that_other_code_splits_is_split_as_in_jieba(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "杭研大厦韩玉鉴赏"
    monkeypatch.setattr("jieba.finalseg.Force_Split_Words", {"杭研"})
    expected = list(tokens._tokenizer().cut(text))
    monkeypatch.setattr(tokens, "MAX_TEXT_CHARACTERS", 1)
    assert segment(text) == expected
    assert expected[:2] == ["杭", "研"]


@pytest.mark.parametrize("character", ["的", "龘", "哈", "㐀", "a", "。", " "])
def test_a_character_repeated_takes_linear_time(character: str) -> None:
    segment("热身")
    began = time.process_time()
    assert "".join(segment(character * 50_000)) == character * 50_000
    assert time.process_time() - began < 5  # by jieba itself: 19 s and more for the first two


def test_a_dictionary_that_is_loaded_ahead_is_loaded_once_and_is_jiebas_own(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens._loaded_tokenizer.cache_clear()
    loads: list[jieba.Tokenizer] = []
    read = tokens._dictionary

    def counted(tokenizer: jieba.Tokenizer) -> tuple[dict[str, int], int]:
        loads.append(tokenizer)
        return read(tokenizer)

    monkeypatch.setattr(tokens, "_dictionary", counted)

    tokens.load_dictionary_ahead()

    assert tokens.segment("白色上衣") == ["白色", "上衣"]
    (tokenizer,) = loads
    assert (tokenizer.FREQ, tokenizer.total) == tokenizer.gen_pfdict(tokenizer.get_dict_file())
