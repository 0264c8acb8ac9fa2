import random

import pytest

from imprint.templates.chatglm import format_chatglm_prompt, format_rounds, process_response
from tests.vocabulary import tiny_template


def test_a_first_question_is_the_bare_query() -> None:
    assert format_chatglm_prompt("你好", None) == "你好"
    assert format_chatglm_prompt("你好", []) == "你好"


def test_earlier_turns_are_numbered_rounds() -> None:
    assert format_chatglm_prompt("再见", [("你好", "你好！"), ("天气", "晴")]) == (
        "[Round 0]\n问：你好\n答：你好！\n[Round 1]\n问：天气\n答：晴\n[Round 2]\n问：再见\n答："
    )


def test_rounds_of_an_empty_history_start_at_zero() -> None:
    assert format_rounds("你好", []) == "[Round 0]\n问：你好\n答："


def test_braces_in_a_question_are_text() -> None:
    assert format_rounds("{query} {0}", []) == "[Round 0]\n问：{query} {0}\n答："


def test_a_system_text_is_a_paragraph_before_everything_else() -> None:
    assert format_chatglm_prompt("你好", None, "你是店员。") == "你是店员。\n\n你好"
    assert format_chatglm_prompt("再见", [("你好", "你好！")], "你是店员。").startswith("你是店员。\n\n[Round 0]\n问：你好")
    assert format_chatglm_prompt("你好", None, "") == "你好"


def test_what_is_settled_never_changes_whatever_follows() -> None:
    settled, rng = tiny_template().stable_prefix, random.Random(0)
    parts = ["中", "a", " ", "\n", ",", "!", "？", "[[训练时间]]", "[[训", "[", "时间]]", "[["]
    for _ in range(3000):
        raw = "".join(rng.choices(parts, k=rng.randint(1, 8)))
        whole = process_response(raw)
        for end in range(len(raw)):
            assert whole.startswith(settled(process_response(raw[:end]))), (raw, end)


def test_most_of_an_answer_is_settled_at_once() -> None:
    settled = tiny_template().stable_prefix
    assert settled("你好，世界") == "你好，世界"
    assert settled("你好!") == "你好"
    assert settled("在[[训练时") == "在"
    assert settled("在[[训练营") == "在[[训练营"


class TestPolish:
    @pytest.mark.parametrize(
        ("raw", "shown"),
        [
            ("  你好 \n", "你好"),
            ("训练于[[训练时间]]", "训练于2023年"),
            ("你好,世界", "你好，世界"),
            ("你好!", "你好！"),
            ("!好", "！好"),
            ("颜色:白色;版型:宽松?", "颜色：白色；版型：宽松？"),
            ("ok, fine! 3:4; why?", "ok, fine! 3:4; why?"),
            ("是A,B,还是C?", "是A,B，还是C?"),
            ("价格3,000元", "价格3,000元"),
            ("好,,好", "好，，好"),
            ("好,,,好", "好，,，好"),
            ("好.", "好."),
            ("你好，世界！", "你好，世界！"),
            ("", ""),
            ("好 , 好", "好 , 好"),
        ],
    )
    def test_punctuation_beside_chinese_becomes_full_width(self, raw: str, shown: str) -> None:
        assert process_response(raw) == shown
