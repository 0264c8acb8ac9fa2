import random
from collections.abc import Callable
from pathlib import Path

import pytest

from imprint.messages import UserError
from imprint.templates import Message
from imprint.tokenizers.prompt_limit import TooManyTokensError, at_most_tokens, refuse_long_text, refuse_more_tokens
from tests.families import template_of

PARTS = (
    *("a", " ", "\n", "\t", "1", "-", "x ", "\r\n", "门票", "的", "\u3000", "\ufdfa", "\u0301", "a\u0301", "\u1100\u1161\u11a8"),
    *("\u200b", "\0", "\u0378", "\U0001f600", "\U0010fffd", "İ", "ﬃ", "<|user|>", "[gMASK]", "<|blank_80|>"),
)
"""What is normalized, left out, taken together, unknown, and special."""


@pytest.mark.parametrize("family", ["chatglm", "chatglm2", "glm4", pytest.param("own", marks=pytest.mark.long)])
def test_no_text_that_fits_is_refused_whatever_it_is(family: str, tmp_path: Path) -> None:
    tokenizer, rng = template_of(family, tmp_path).tokenizer, random.Random(0)
    for _ in range(200):
        text = "".join(rng.choice(PARTS) * rng.choice((1, 1, 2, 40, 300, 3000)) for _ in range(rng.randint(1, 6)))
        ids = tokenizer.encode(text)
        with at_most_tokens(max(len(ids), 1)):
            assert tokenizer.encode(text) == ids


@pytest.mark.parametrize("family", ["chatglm", "chatglm2", "glm4", "own"])
def test_a_text_that_cannot_fit_is_refused_before_it_is_encoded(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = template_of(family, tmp_path).tokenizer
    tokenizer.encode("a")
    for name in ("_processor", "_encoding", "_encode_text"):
        if hasattr(tokenizer, name):
            monkeypatch.setattr(tokenizer, name, Normalizing(getattr(tokenizer, name)))
    with at_most_tokens(100), pytest.raises(TooManyTokensError) as caught:
        tokenizer.encode("\ufdfa" * 200_000)
    assert 100 < caught.value.least <= caught.value.about


class Normalizing:
    """The vocabulary, which encodes nothing."""

    def __init__(self, vocabulary: object) -> None:
        self._vocabulary = vocabulary

    def normalize(self, text: str) -> str:
        normalized: str = self._vocabulary.normalize(text)  # type: ignore[attr-defined]
        return normalized

    def id_to_piece(self, index: int) -> str:
        piece: str = self._vocabulary.id_to_piece(index)  # type: ignore[attr-defined]
        return piece


def test_a_limit_ends_with_its_block() -> None:
    with at_most_tokens(3):
        refuse_more_tokens(3)
        with pytest.raises(TooManyTokensError, match="the prompt has more than 3 tokens") as caught:
            refuse_more_tokens(4)
        assert isinstance(caught.value, UserError)
    refuse_more_tokens(10**9)
    refuse_long_text("a" * 100, 1, len)


@pytest.mark.parametrize("count", [len, lambda part: len(part.replace(" ", ""))])
def test_a_long_text_is_judged_by_its_beginning_and_then_by_all_of_it(count: Callable[[str], int]) -> None:
    with at_most_tokens(10):
        refuse_long_text("a" * 50, 5, count)
        with pytest.raises(TooManyTokensError) as caught:
            refuse_long_text("a" * 51, 5, count)
        assert (caught.value.least, caught.value.about) == (11, 10)
        with pytest.raises(TooManyTokensError) as caught:
            refuse_long_text("a" * 100_000, 5, count)
        assert caught.value.least < 300
        assert caught.value.about > 5_000
        with pytest.raises(TooManyTokensError):
            refuse_long_text(" " * 10_000 + "a" * 51, 5, count)
        refuse_long_text("a" * 100_000, None, count)


def test_a_text_whose_characters_are_left_out_fits() -> None:
    counted = list[int]()

    def count(part: str) -> int:
        counted.append(len(part))
        return len(part.strip())

    with at_most_tokens(10):
        refuse_long_text(" " * 100_000, 5, count)
    assert counted[-1] == 100_000


def test_the_tokens_of_a_conversation_are_added_up(tmp_path: Path) -> None:
    template = template_of("chatglm3", tmp_path)
    messages = [Message("user" if index % 2 == 0 else "assistant", "好" * 20) for index in range(9)]
    whole = sum(len(segment.ids) for segment in template.prompt(messages))
    with at_most_tokens(whole):
        template.prompt(messages)
    with at_most_tokens(whole // 2), pytest.raises(TooManyTokensError):
        template.prompt(messages)
