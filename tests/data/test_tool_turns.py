from typing import Any

import pytest

from imprint.data.readers.bad_rows import BadRowError
from imprint.data.sample import Sample
from imprint.data.shapes import Columns, detect_shape, samples_from_row
from imprint.data.tool_turns import is_tool_turn, unread_keys
from imprint.templates import Message

WEATHER = {"name": "weather", "parameters": {}}
ASKED = [Message("user", "天气？"), Message("assistant", '{"city": "北京"}', "weather"), Message("observation", "晴")]
QUESTION = {"role": "user", "content": "天气？"}
ORDER = "the user begins, and the assistant follows each question and each result of a tool."
ANSWER = {"role": "assistant", "content": "晴。"}


def read(row: dict[str, Any], *, tools: bool = True) -> list[Sample]:
    return samples_from_row(row, detect_shape(row, Columns()), "f:1", tools=tools)


def complaint(row: dict[str, Any]) -> str:
    with pytest.raises(BadRowError) as error:
        read(row)
    return str(error.value)


@pytest.mark.parametrize(
    "turns",
    [
        [QUESTION, {"role": "tool", "name": "weather", "parameters": {"city": "北京"}, "observation": "晴"}, ANSWER],
        [
            QUESTION,
            {"role": "assistant", "metadata": "weather", "content": '{"city": "北京"}'},
            {"role": "observation", "content": "晴"},
            ANSWER,
        ],
        [
            QUESTION,
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "北京"}'}}]},
            {"role": "tool", "tool_call_id": "1", "content": "晴"},
            ANSWER,
        ],
        [
            QUESTION,
            {"role": "assistant", "content": "", "function_call": {"name": "weather", "arguments": {"city": "北京"}}},
            {"role": "function", "name": "weather", "content": "晴"},
            ANSWER,
        ],
        [  # as tables hold it: calls as text, and fields that no call has
            {**QUESTION, "tool_calls": "[]"},
            {"role": "assistant", "content": "", "tool_calls": '[{"function": {"name": "weather", "arguments": {"city": "北京"}}}]'},
            {"role": "tool", "content": "晴", "function_call": {"name": None, "arguments": None}},
            {**ANSWER, "tool_calls": "[]", "function_call": {"name": None, "arguments": None}},
        ],
        [
            QUESTION,
            {"role": "Function_call", "content": '{"name": "weather", "arguments": {"city": "北京"}}'},
            {"role": "Observation", "content": "晴"},
            ANSWER,
        ],
    ],
)
def test_a_call_and_its_answer_are_read_in_every_way_of_writing_them(turns: list[dict[str, Any]]) -> None:
    call, answer = read({"messages": turns})

    assert (call.context, call.answer, call.tool) == ((ASKED[0],), '{"city": "北京"}', "weather")
    assert (answer.context, answer.answer, answer.tool) == (tuple(ASKED), "晴。", "")
    assert answer.messages == ASKED
    assert (answer.query, answer.history) == ("晴", (("天气？", '{"city": "北京"}'),))


def test_sharegpt_says_calls_as_values() -> None:
    turns = [
        {"from": "human", "value": "天气？"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "北京"}}'},
        {"from": "observation", "value": "晴"},
        {"from": "gpt", "value": "晴。"},
    ]
    assert [sample.context for sample in read({"conversations": turns})] == [(ASKED[0],), tuple(ASKED)]


@pytest.mark.parametrize("tools", [[WEATHER], '[{"name": "weather", "parameters": {}}]'])
def test_tools_are_offered_with_what_the_system_says(tools: object) -> None:
    (sample,) = read({"tools": tools, "messages": [{"role": "system", "content": "你是助手。"}, QUESTION, ANSWER]})
    assert sample.context == (Message("system", "你是助手。", tools=(WEATHER,)), Message("user", "天气？"))
    assert sample.system == "你是助手。"
    (other,) = read({"messages": [{"role": "system", "content": "你是助手。", "tools": [WEATHER]}, QUESTION, ANSWER]})
    assert other.context == sample.context
    (bare,) = read({"tools": tools, "messages": [QUESTION, ANSWER]})
    assert bare.context == (Message("system", "", tools=(WEATHER,)), Message("user", "天气？"))


def test_what_is_not_to_be_learned_is_read_alone() -> None:
    call = {"role": "tool", "name": "weather", "parameters": {}, "observation": {"sky": "晴"}, "loss": False}
    (sample,) = read({"messages": [QUESTION, {"role": "assistant", "content": "我看看。"}, call, {**ANSWER, "weight": 1}]})[1:]
    assert sample.context is not None
    assert [message.text for message in sample.context] == ["天气？", "我看看。", "{}", '{"sky": "晴"}']


def test_without_a_template_for_tools_a_call_is_bad_and_an_offer_is_left_out() -> None:
    assert read({"tools": [WEATHER], "messages": [QUESTION, ANSWER]}, tools=False) == [Sample("天气？", "晴。", None, "f:1")]
    with pytest.raises(BadRowError, match='turn 2 of "messages" is a call or a result of a tool, and the template of this model does'):
        read({"messages": [QUESTION, {"role": "observation", "content": "晴"}]}, tools=False)


def test_a_conversation_without_tools_is_read_as_ever() -> None:
    assert read({"messages": [QUESTION, ANSWER]}) == read({"messages": [QUESTION, ANSWER]}, tools=False)
    assert not is_tool_turn({"role": "assistant", "content": "a", "metadata": "", "tool_calls": None})


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"tools": "weather", "messages": [QUESTION, ANSWER]}, '"tools" must be a list of objects or texts, got a string ("weather").'),
        (
            {"messages": [{"role": "observation", "content": "晴"}, ANSWER]},
            f'"messages": the observation comes first; {ORDER}',
        ),
        (
            {"messages": [QUESTION, {"role": "observation", "content": "晴"}]},
            f'"messages": the observation comes after the user; {ORDER}',
        ),
        (
            {"messages": [QUESTION, {"role": "tool", "name": "weather", "parameters": {}, "observation": "晴"}]},
            '"messages" ends without an answer of the assistant.',
        ),
        ({"messages": [QUESTION, {"role": "tool", "parameters": {}}, ANSWER]}, 'turn 2 of "messages" calls a tool without a "name".'),
        (
            {"messages": [QUESTION, {"role": "tool", "name": "weather", "parameters": {}}, ANSWER]},
            'turn 2 of "messages" has no result or no arguments of the tool.',
        ),
        (
            {"messages": [QUESTION, {"role": "assistant", "tool_calls": [{}, {}]}, ANSWER]},
            'turn 2 of "messages" calls a tool without a "name".',
        ),
        (
            {"conversations": [{"from": "human", "value": "天气？"}, {"from": "function_call", "value": "weather()"}]},
            'turn 2 of "conversations" must hold an object with "name" and "arguments", got a string ("weather()").',
        ),
    ],
)
def test_what_is_wrong_is_reported(row: dict[str, Any], sentence: str) -> None:
    assert complaint(row) == sentence


WORDS_AND_CALLS = [
    QUESTION,
    {
        "role": "assistant",
        "content": "我查一下。",
        "tool_calls": [{"function": {"name": "weather", "arguments": f'{{"city": "{city}"}}'}} for city in "京杭"],
    },
    {"role": "tool", "content": "晴"},
    {"role": "tool", "content": "雨"},
    ANSWER,
]


def test_words_before_calls_and_several_calls_are_one_answer() -> None:
    call, answer = read({"messages": WORDS_AND_CALLS, "tools": [WEATHER]})
    rest = tuple(Message("assistant", f'{{"city": "{city}"}}', "weather", continues=True) for city in "京杭")
    assert (call.answer, call.tool, call.further_messages) == ("我查一下。", "", rest)
    assert answer.messages[2:] == [Message("assistant", "我查一下。"), *rest, Message("observation", "晴"), Message("observation", "雨")]
    assert answer.history == (("天气？", '我查一下。\n{"city": "京"}\n{"city": "杭"}'),)


def test_several_calls_without_words_are_one_answer_in_either_form() -> None:
    calls = [{"name": "weather", "arguments": {"city": city}} for city in "京杭"]
    openai = {"role": "assistant", "content": None, "tool_calls": [{"function": call} for call in calls]}
    for turn in (openai, {"from": "function_call", "value": str(calls).replace("'", '"')}):
        (call,) = read({"messages": [QUESTION, turn]})
        assert (call.answer, call.tool) == ('{"city": "京"}', "weather")
        assert call.further_messages == (Message("assistant", '{"city": "杭"}', "weather", continues=True),)


@pytest.mark.parametrize("words", [["我查一下。"], []])
def test_calls_in_turns_of_their_own_are_one_answer_with_what_comes_before(words: list[str]) -> None:
    calls = [{"role": "tool_call", "content": f'{{"name": "weather", "arguments": {{"city": "{city}"}}}}'} for city in "京杭"]
    said = [{"role": "assistant", "content": text} for text in words]
    call, answer = read({"messages": [QUESTION, *said, *calls, {"role": "tool", "content": "晴"}, ANSWER]})

    assert [call.answer, *(one.text for one in call.further_messages)] == [*words, '{"city": "京"}', '{"city": "杭"}']
    assert [message.continues for message in answer.messages[1:-1]] == [False, *[True] * (len(words) + 1)]


def test_a_call_that_is_learned_stays_apart_from_words_that_are_not() -> None:
    said = {"role": "assistant", "content": "我查一下。", "loss": False}
    (call,) = read({"messages": [QUESTION, said, {"role": "tool_call", "content": '{"name": "weather", "arguments": {}}'}]})

    assert (call.answer, call.tool, call.further_messages) == ("{}", "weather", ())


def test_tools_are_read_in_the_case_of_the_first_row_and_may_be_missing() -> None:
    (sample,) = read({"Messages": [QUESTION, ANSWER], "Tools": [WEATHER]})
    assert sample.messages[0] == Message("system", "", tools=(WEATHER,))
    (plain,) = read({"messages": [QUESTION, ANSWER], "tools": float("nan")})
    assert plain.context is None


def test_tools_may_be_texts() -> None:
    told = "getWeather: 查天气。Parameters: {}"
    (sample,) = read({"tools": [told], "messages": [QUESTION, ANSWER]})
    assert sample.messages[0] == Message("system", "", tools=(told,))


def test_an_empty_system_turn_with_tools_is_none() -> None:
    (sample,) = read({"messages": [{"role": "system", "content": "", "tools": [WEATHER]}, QUESTION, ANSWER]})
    assert sample.messages[0] == Message("system", "", tools=(WEATHER,))
    assert sample.system is None


def test_words_that_are_no_text_are_reported() -> None:
    turn = {"role": "assistant", "content": 3, "tool_calls": [{"function": {"name": "weather", "arguments": "{}"}}]}
    assert complaint({"messages": [QUESTION, turn]}) == 'the words of turn 2 of "messages" must be a text, got a number (3).'


@pytest.mark.parametrize("tools", [True, False])
@pytest.mark.parametrize("metadata", [{"source": "web"}, 7, ""])
def test_what_else_is_said_of_a_turn_is_no_call(metadata: object, *, tools: bool) -> None:
    (sample,) = read({"messages": [QUESTION | {"metadata": "web"}, ANSWER | {"metadata": metadata}]}, tools=tools)

    assert (sample.query, sample.answer, sample.tool) == ("天气？", "晴。", "")


@pytest.mark.parametrize(
    ("turn", "sentence"),
    [
        (
            {"role": "user", "content": "a", "tool_calls": [{"name": "weather", "arguments": "{}"}]},
            'turn 1 of "messages" calls a tool, which only the assistant does; its role is a string ("user").',
        ),
        (
            {
                "role": "assistant",
                "content": "a",
                "tool_calls": [{"name": "weather", "arguments": "{}"}],
                "function_call": {"name": "time", "arguments": "{}"},
            },
            'turn 1 of "messages" has both "tool_calls" and "function_call". Leave one out.',
        ),
        (
            {"role": "assistant", "content": "a", "tool_calls": [{"function": {"name": "weather", "args": {"city": "北京"}}}]},
            'turn 1 of "messages" calls "weather" without "arguments", but with "args".',
        ),
    ],
)
def test_a_call_of_which_a_part_would_be_lost_is_refused(turn: dict[str, Any], sentence: str) -> None:
    assert complaint({"messages": [turn, ANSWER]}) == sentence


def test_a_picture_with_a_text_is_not_taken_for_the_text() -> None:
    parts = [{"type": "image", "image": "a.png", "text": "看"}]

    assert complaint({"messages": [{"role": "user", "content": parts}, ANSWER]}).startswith(
        '"content of turn 1" must be a text, got a list'
    )


def test_keys_that_are_not_read_are_known() -> None:
    assert unread_keys(QUESTION | {"images": ["a.png"], "name": "小王", "audio": None}) == ["images", "name"]
    assert unread_keys({"role": "tool", "tool_call_id": "1", "name": "weather", "content": "晴"}) == []
    assert unread_keys({"human": "a", "assistant": "b", "emotion": "c", "content": "d"}) == ["emotion", "content"]
