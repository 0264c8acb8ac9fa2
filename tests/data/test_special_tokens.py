"""Control tokens that another tool has left in texts are counted, and removed at the ends alone."""

import pytest

from imprint.data.special_tokens import count_special_tokens, has_closed_thoughts, has_special_token, without_edge_tokens
from tests.bounded import cpu_time


def test_a_token_counts_once_for_a_text() -> None:
    assert count_special_tokens(["a</s></s>", "<|im_end|>", "b"]) == {"</s>": 1, "<|im_end|>": 1}
    assert [has_special_token(text) for text in ("<|assistant|>\n好", "a < b | c > d", "[1]", "<div>")] == [True, False, False, False]


def test_thoughts_are_those_that_end() -> None:
    texts = ("想</think>好", "</seed:think>", "<think>想", "</b>好")
    assert [has_closed_thoughts(text) for text in texts] == [True, True, False, False]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("<s>好</s>\n<|im_end|> ", "好"),
        (" [gMASK] <sop> 好 ", " 好 "),
        ("好 <s> 看", "好 <s> 看"),
        ("<|endoftext|>", ""),
        ("好<eos>。", "好<eos>。"),
        ("", ""),
    ],
)
def test_tokens_at_the_ends_are_removed_and_no_others(text: str, clean: str) -> None:
    assert without_edge_tokens(text) == clean


def test_a_million_tokens_inside_a_text_take_no_more_than_a_second() -> None:
    text = "x" + "<s> " * 250_000 + "y" + " " * 100_000

    with cpu_time(at_most=20):
        assert without_edge_tokens(text) == text
        assert without_edge_tokens("<s>" * 250_000) == ""


@pytest.mark.parametrize("token", ["<eoa>", "<eom>", "<eoh>", "<unused0>", "<reserved_107>", "<TOKENS_UNUSED_1>", "<_end>"])
def test_the_tokens_of_moss_internlm_baichuan_gemma_and_telechat_count(token: str) -> None:
    assert count_special_tokens([f"好{token}"]) == {token: 1}
