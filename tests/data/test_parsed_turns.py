"""A turn has one speaker and one text, and a conversation pairs of them; what is wrong is said in both languages."""

from typing import Any

import pytest

from imprint.data.parsed_turns import ParsedTurn, paired, split_system
from imprint.data.readers.bad_rows import BadRowError


def parsed(*turns: tuple[str, str]) -> list[ParsedTurn]:
    said = enumerate(turns, start=1)
    return [ParsedTurn.parse({"role": role, "content": text}, number, "messages") for number, (role, text) in said]


def test_questions_are_paired_with_their_answers() -> None:
    turns = parsed(("user", "一"), ("assistant", "二"), ("human", "三"), ("gpt", "四"))
    assert [(question.text, answer.text) for question, answer in paired(turns, "messages")] == [("一", "二"), ("三", "四")]
    assert paired([], "messages") == []


@pytest.mark.parametrize(
    ("turns", "english", "chinese"),
    [
        (
            [("assistant", "一")],
            'turn 1 of "messages" is by the assistant, but user and assistant must take turns, the user first.',
            '"messages" 第 1 轮是 assistant 的，而用户和助手须轮流发言，由用户开始。',
        ),
        (
            [("user", "一")],
            '"messages" ends with the user (turn 1), so an answer is missing.',
            '"messages" 以用户的第 1 轮结束，缺少回答。',
        ),
    ],
)
def test_turns_in_another_order_are_refused(turns: list[tuple[str, str]], english: str, chinese: str) -> None:
    with pytest.raises(BadRowError) as error:
        paired(parsed(*turns), "messages")
    assert (error.value.reason.english, error.value.reason.chinese) == (english, chinese)


@pytest.mark.parametrize(
    ("turn", "english", "chinese"),
    [
        ({"role": "tool", "content": "x"}, "is a call or a result of a tool", "是工具的调用或结果"),
        ({"role": "user"}, 'must have "role" and "content"', '须有 "role" 和 "content"'),
        ({"role": "robot", "content": "x"}, '"role" must be one of user', "之一，实际为文本"),
        ({"role": "user", "content": ""}, '"content of turn 3" must not be empty', '第 3 轮的 "content" 不能为空'),
        ({"role": "user", "content": "x", "value": "y"}, 'has both "content" and "value", which differ', "而二者不同"),
        ({"role": "assistant", "content": "x", "loss": 0.5}, '"loss" of turn 3 of "messages" must be true', "须为 true、false、1 或 0"),
    ],
)
def test_a_turn_with_anything_else_is_refused(turn: dict[str, Any], english: str, chinese: str) -> None:
    with pytest.raises(BadRowError) as error:
        ParsedTurn.parse(turn, 3, "messages")
    assert english in error.value.reason.english
    assert chinese in error.value.reason.chinese


def test_a_system_prompt_comes_first_and_once() -> None:
    turns = parsed(("system", "规则"), ("user", "一"))
    assert split_system(None, turns, "messages") == ("规则", turns[1:])
    assert split_system("规则", turns, "messages") == ("规则", turns[1:])
    with pytest.raises(BadRowError, match="differ"):
        split_system("别的", turns, "messages")
    with pytest.raises(BadRowError, match="may only come first"):
        split_system(None, [turns[1], turns[0]], "messages")
