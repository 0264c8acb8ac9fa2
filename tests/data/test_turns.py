"""The turns of every published form are the same turns."""

from typing import Any

import pytest

from imprint.data.readers.bad_rows import BadRowError
from imprint.data.sample import Sample
from imprint.data.shapes import MAX_TURNS, Columns, detect_shape, samples_from_row
from imprint.data.turns import is_conversation, is_message, is_turn, numbered_turns

QUESTIONS = [Sample("怎样洗？", "冷水。", None, "f:1"), Sample("能晒吗？", "阴凉处。", (("怎样洗？", "冷水。"),), "f:1")]


def samples(row: dict[str, object]) -> list[Sample]:
    return samples_from_row(row, detect_shape(row, Columns()), "f:1")


@pytest.mark.parametrize(
    "row",
    [
        {
            "conversation": [{"human": "怎样洗？", "assistant": "冷水。"}, {"human": "能晒吗？", "assistant": "阴凉处。"}],
            "category": "闲聊",
        },
        {"conversation": [{"system": "", "input": "怎样洗？", "output": "冷水。"}, {"input": "能晒吗？", "output": "阴凉处。"}]},
        {"paragraph": [{"q": "怎样洗？", "a": "冷水。"}, {"q": "能晒吗？", "a": ["阴凉处。"]}]},
        {"conversations": [{"question": "怎样洗？", "answer": "冷水。"}, {"prompt": "能晒吗？", "response": "阴凉处。"}]},
        {
            "messages": [
                {"user": "怎样洗？", "assistant": "冷水。"},
                {"role": "user", "value": "能晒吗？"},
                {"from": "bot", "value": "阴凉处。"},
            ]
        },
        {"conversations": ["怎样洗？", "冷水。", "能晒吗？", "阴凉处。"]},
        {"messages": [{"role": "user", "value": "怎样洗？"}, {"from": "gpt", "content": "冷水。"}, {"q": "能晒吗？", "a": "阴凉处。"}]},
        {"conversations": {"from": ["human", "gpt", "human", "gpt"], "value": ["怎样洗？", "冷水。", "能晒吗？", "阴凉处。"]}},
        {"Conversations": [{"from": "human", "value": "怎样洗？"}, {"from": "gpt", "value": "冷水。"}, {"q": "能晒吗？", "a": "阴凉处。"}]},
    ],
)
def test_firefly_xtuner_and_paragraphs_are_conversations(row: dict[str, object]) -> None:
    assert samples(row) == QUESTIONS


def test_the_system_text_of_xtuner_is_that_of_the_conversation_and_an_answer_may_be_left_unlearned() -> None:
    row: dict[str, object] = {
        "conversation": [
            {"system": "你是店员。", "input": "一", "output": "二", "output_with_loss": False},
            {"input": "三", "output": "四"},
        ]
    }

    assert samples(row) == [Sample("三", "四", (("一", "二"),), "f:1", "你是店员。")]


@pytest.mark.parametrize("key", ["input", "output"])
def test_a_blank_text_of_a_pair_is_reported_under_its_own_key(key: str) -> None:
    with pytest.raises(BadRowError, match=f'"{key} of turn 1" must not be empty'):
        samples({"conversation": [{"input": "一", "output": "二"} | {key: ""}]})


def test_an_answer_of_several_lines_is_joined() -> None:
    assert samples({"paragraph": [{"q": "一", "a": ["二", "三"]}]}) == [Sample("一", "二\n三", None, "f:1")]


def test_a_paragraph_of_text_is_no_conversation() -> None:
    assert detect_shape({"paragraph": ["一", "二"], "question": "q", "answer": "a"}, Columns()).kind == "pair"


def test_turns_keep_the_number_of_their_element() -> None:
    assert [number for number, _turn in numbered_turns([{"human": "a", "assistant": "b"}, {"role": "user", "content": "c"}, 7])] == [
        1,
        1,
        2,
        3,
    ]


def test_a_turn_is_told_from_a_row() -> None:
    assert is_turn({"role": "user", "content": "a"})
    assert is_conversation([{"from": "human", "value": "a"}])
    assert is_turn({"q": "a", "a": "b"})
    assert not is_message({"q": "a", "a": "b"})
    assert not any(is_turn(value) for value in ({"content": "a", "summary": "b"}, {"input": "a", "output": "b"}, 7))
    assert not is_conversation([])


def test_a_conversation_without_end_is_refused_by_its_number_of_turns() -> None:
    row: dict[str, object] = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * MAX_TURNS}

    with pytest.raises(ValueError, match=r'"messages" has 2,000 turns, more than 1,000. Divide it into several rows.'):
        samples(row)


@pytest.mark.parametrize("key", ["loss", "weight", "train", "training"])
@pytest.mark.parametrize("value", [False, 0, 0.0])
def test_an_answer_that_is_not_to_be_learned_is_not(key: str, value: object) -> None:
    turns: list[dict[str, object]] = [{"role": "user", "content": "一"}, {"role": "assistant", "content": "二", key: value}]

    assert samples({"messages": turns}) == []
    assert samples({"messages": [turns[0], {**turns[1], key: None}]}) == [Sample("一", "二", None, "f:1")]
    assert samples({"conversation": [{"human": "一", "assistant": "二", key: value}]}) == []


@pytest.mark.parametrize(("value", "found"), [("false", 'a string ("false")'), (0.5, "a number (0.5)"), ("0", 'a string ("0")')])
def test_a_mark_of_learning_that_cannot_be_honoured_is_refused(value: object, found: str) -> None:
    row: dict[str, Any] = {"messages": [{"role": "user", "content": "一"}, {"role": "assistant", "content": "二", "weight": value}]}

    with pytest.raises(BadRowError) as error:
        samples(row)

    assert str(error.value) == f'"weight" of turn 2 of "messages" must be true, false, 1 or 0, got {found}.'


def test_the_thoughts_of_a_pair_of_turns_are_learned() -> None:
    row: dict[str, object] = {"conversation": [{"human": "一", "assistant": "二", "reasoning_content": "想"}]}

    assert samples(row)[0].answer == "<think>\n想\n</think>\n\n二"


def test_lists_of_different_lengths_are_no_turns() -> None:
    assert detect_shape({"conversations": {"from": ["human", "gpt"], "value": ["a"]}}, Columns()).known is False


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"prompt": "一", "completion": "二", "label": False}, "label"),
        ({"question": "一", "answer": "二", "label": "False"}, "label"),  # a table
        ({"instruction": "一", "input": "", "output": "二", "kto_tag": False}, "kto_tag"),
        ({"messages": [{"role": "user", "content": "一"}, {"role": "assistant", "content": "二"}], "label": False}, "label"),
        ({"conversations": [{"from": "human", "value": "一"}, {"from": "gpt", "value": "二"}], "kto_tag": False}, "kto_tag"),
    ],
)
def test_an_answer_to_avoid_is_not_learned_like_a_good_one(row: dict[str, object], column: str) -> None:
    with pytest.raises(BadRowError, match=f'has an answer to avoid by "{column}": false, as in data for KTO'):
        samples(row)
    assert len(samples({**row, column: True})) == len(samples({**row, column: None})) == len(samples({**row, column: 0})) == 1


def test_a_label_beside_named_columns_is_a_column_like_any_other() -> None:
    row = {"content": "一", "summary": "二", "label": False}
    assert len(samples(row)) == 1
    row = {"prompt": "一", "completion": "二", "label": False}
    assert len(samples_from_row(row, detect_shape(row, Columns("prompt", "completion")), "f:1")) == 1
