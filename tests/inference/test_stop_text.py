import pytest

from imprint.inference.stop_text import StopSearch, before_stop
from imprint.tokenizers import TextStream
from tests.vocabulary import tiny_tokenizer


@pytest.mark.parametrize(
    ("text", "stop", "growing", "whole"),
    [
        ("你好。再见", ["。"], "你好", "你好"),
        ("你好##", ["###"], "你好", "你好##"),
        ("你好", ["###"], "你好", "你好"),
        ("a\nb\n", ["\n\n", "b\nc"], "a\n", "a\nb\n"),
        ("abcab", ["abd"], "abc", "abcab"),
        ("两个 stop 先到先停", ["停", "stop"], "两个 ", "两个 "),
        ("", ["x"], "", ""),
        ("text", [], "text", "text"),
    ],
)
def test_nothing_of_a_stop_text_is_shown(text: str, stop: list[str], growing: str, whole: str) -> None:
    assert before_stop(text, stop, done=False) == growing
    assert before_stop(text, stop, done=True) == whole


def test_a_stop_text_is_found_across_tokens() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode("这件上衣的颜色是白色，版型很宽松。")
    texts = [tokenizer.decode(ids[: index + 1]) for index in range(len(ids))]
    for stop in ("颜色", "白", "宽松。", "衣的颜"):
        search = StopSearch([stop, "从不出现"], TextStream(tokenizer).push)
        found = [search.push(token) for token in ids]
        assert found.index(True) == next(index for index, text in enumerate(texts) if stop in text)
