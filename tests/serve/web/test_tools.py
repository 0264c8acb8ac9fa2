import json
import time
from dataclasses import replace
from typing import Any

import pytest

from imprint.serve.web.errors import ApiError
from imprint.serve.web.openai_bodies import ChatBody
from imprint.serve.web.tools import ToolUse, as_messages, as_tool_calls, tool_use
from tests.serve.web.scripted import MODELS

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
OFFERED = ToolUse(frozenset({"weather"}))


def body(**fields: Any) -> ChatBody:
    return ChatBody.model_validate({"model": "base", "messages": [{"role": "user", "content": "hi"}], **fields})


@pytest.mark.parametrize(
    "text",
    [
        'weather\n{"city": "北京"}',
        "weather\n```python\ntool_call(city='北京')\n```",
        'Let me look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call>',
    ],
)
def test_a_call_in_the_form_of_a_family_is_a_call(text: str) -> None:
    calls = as_tool_calls(text, OFFERED)
    assert [(call["type"], call["function"]["name"]) for call in calls] == [("function", "weather")]
    assert json.loads(calls[0]["function"]["arguments"]) == {"city": "北京"}


@pytest.mark.parametrize(
    "text",
    [
        r'<tool_call>{"name": "weather", "arguments": {"city": "\ud83d", "sky": "\ud83d\ude00"}}</tool_call>',
        r"""weather
tool_call(city="\ud83d", sky="\U0001f600")""",
    ],
)
def test_half_of_a_surrogate_pair_that_a_model_writes_becomes_a_character(text: str) -> None:
    (call,) = as_tool_calls(text, OFFERED)
    written: str = call["function"]["arguments"]
    assert json.loads(written.encode()) == {"city": "\ufffd", "sky": "\U0001f600"}


@pytest.mark.parametrize(
    "text",
    [
        "It is sunny.",
        'other\n{"city": 1}',
        "weather\nis fine",
        "weather\ntool_call(__import__('os').system('x'))",
        "weather\ntool_call(**{})",
        "weather\n" + "[" * 100_000,
        "<tool_call>{broken}</tool_call>",
    ],
)
def test_anything_else_is_words_and_nothing_is_run(text: str) -> None:
    assert as_tool_calls(text, OFFERED) == []
    assert as_tool_calls('weather\n{"city": 1}', None) == []


@pytest.mark.parametrize(
    ("arguments", "calls"),
    [
        ('{"k": [' + "[]," * 40_000 + "[]]}", 1),
        ('{"k": [' + "[]," * 1000 + "[]]}", 40),
        ('{"k": ["\\\\", "\\"", ' + "[]," * 20_000 + '[]], "unended}', 2),
    ],
)
def test_arguments_have_no_more_values_than_a_body_may_have(arguments: str, calls: int) -> None:
    chat = body(messages=[{"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": arguments}}] * calls}])
    with pytest.raises(ApiError, match="the arguments of all calls"):
        as_messages(chat.messages)


def test_arguments_may_have_any_text() -> None:
    arguments = json.dumps({"text": '[{,\\"' * 30_000})
    chat = body(messages=[{"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": arguments}}]}])
    assert as_messages(chat.messages)[0]["content"] == arguments


def test_definitions_calls_and_results_become_messages_of_the_template() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    chat = body(
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "sun"},
        ],
        tools=[TOOL],
    )
    assert as_messages(chat.messages, chat.tools or ()) == (
        {"role": "system", "content": "", "tools": [TOOL]},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": "{}", "metadata": "weather"},
        {"role": "tool", "content": "sun"},
    )
    developer = body(messages=[{"role": "developer", "content": "short"}, {"role": "user", "content": "hi"}], tools=[TOOL])
    assert as_messages(developer.messages, developer.tools or ())[0] == {"role": "system", "content": "short", "tools": [TOOL]}


def test_a_model_without_tools_refuses_them_by_name() -> None:
    with pytest.raises(ApiError) as caught:
        tool_use(body(tools=[TOOL]), replace(MODELS[0], supports_tools=False))
    assert (caught.value.code, caught.value.param) == ("unsupported_value", "tools")


def test_a_call_cannot_be_forced_and_tools_need_names() -> None:
    for fields, param in (({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"), ({"tools": [{"type": "x"}]}, "tools[0]")):
        with pytest.raises(ApiError) as caught:
            tool_use(body(**fields), MODELS[0])
        assert caught.value.param == param
    assert tool_use(body(tools=[TOOL], tool_choice="none"), MODELS[0]) is None
    assert tool_use(body(tools=[TOOL]), MODELS[0]) == OFFERED


def test_tags_without_an_end_take_no_time() -> None:
    begun = time.process_time()
    assert as_tool_calls("<tool_call>{}" * 20_000, OFFERED) == []
    assert time.process_time() - begun < 5
