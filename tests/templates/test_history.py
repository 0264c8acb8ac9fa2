from pathlib import Path

import pytest

from imprint.messages import UserError
from imprint.templates import Message, conversation, read_messages, read_pairs, with_turn
from imprint.templates.history import as_messages
from tests.families import FOLDERS, template_of

PAIRS = [("你好", "好"), ("在吗", "在")]
SPOKEN: list[dict[str, object]] = [
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "好", "metadata": ""},
    {"role": "user", "content": "在吗"},
    {"role": "assistant", "content": "在"},
]


def test_pairs_and_messages_are_the_same_conversation() -> None:
    assert (
        conversation("继续", SPOKEN, "s") == conversation("继续", PAIRS, "s") == conversation("继续", [list(pair) for pair in PAIRS], "s")
    )
    assert conversation("继续", SPOKEN)[-2:] == [Message("assistant", "在"), Message("user", "继续")]
    assert read_pairs(SPOKEN, "history") == read_pairs(PAIRS, "history") == tuple(PAIRS)
    assert (read_pairs(None, "history"), read_pairs([], "history"), conversation("a")) == (None, (), [Message("user", "a")])


def test_tools_calls_and_results_are_read() -> None:
    told: list[object] = [
        {"role": "system", "content": "", "tools": [{"name": "weather"}]},
        {"role": "user", "content": "天气？"},
        {"role": "assistant", "metadata": "weather", "content": "{}"},
        {"role": "tool", "content": "晴"},
    ]
    messages = read_messages(told, "messages")
    assert messages[0] == Message("system", "", tools=({"name": "weather"},))
    assert messages[2:] == [Message("assistant", "{}", "weather"), Message("observation", "晴")]
    assert read_messages(messages, "messages") == messages


@pytest.mark.parametrize(
    ("history", "sentence"),
    [
        ("你好", "history: must be a list of (question, answer) pairs, or of messages with role and content, got str '你好'."),
        (["你好", "好的"], "history[0]: must be a (question, answer) pair, or a message with role and content, got str '你好'."),
        ([("你好", None)], "history[0][1]: must be a text, got NoneType None."),
        (
            [("a", "b", "c")],
            "history[0]: must be a (question, answer) pair, or a message with role and content, got tuple ('a', 'b', 'c').",
        ),
        ([{"role": "user", "content": "a", "name": "b"}], "found role, content, name."),
        ([{"content": "a"}], "history[0]: a message has role and content, and may have metadata and tools; found content."),
        ([{"role": "bot", "content": "a"}], "history[0].role: must be one of system, user, assistant, observation, tool, got str 'bot'."),
        ([{"role": "user", "content": None}], "history[0].content: must be a text, got NoneType None."),
        ([{"role": "user", "content": "a", "metadata": "t"}], "history[0].metadata: must be empty unless the assistant calls a tool"),
        ([{"role": "user", "content": "a", "tools": [{}]}], "history[0].tools: must be a list of objects in a system prompt"),
    ],
)
def test_what_is_no_history_is_named(history: object, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        conversation("继续", history)
    assert sentence in str(caught.value).splitlines()[0]


def test_two_system_texts_and_an_order_that_is_no_pairs_are_named() -> None:
    with pytest.raises(UserError, match="system: the history begins with a system prompt already"):
        conversation("a", [{"role": "system", "content": "s"}], "t")
    for history in (SPOKEN[:1], SPOKEN[1:3], [{"role": "system", "content": "s"}]):
        with pytest.raises(UserError, match="history: must be turns of user and assistant, got: "):
            read_pairs(history, "history")
    with pytest.raises(UserError, match="query: must be a text, got NoneType"):
        conversation(None)


def test_a_turn_is_added_in_the_form_of_the_others() -> None:
    assert with_turn(None, "q", "a") == with_turn([], "q", "a") == [("q", "a")]
    assert with_turn(PAIRS, "q", "a") == [*PAIRS, ("q", "a")]
    assert with_turn(SPOKEN, "q", "a") == [*SPOKEN, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize("name", FOLDERS)
def test_every_template_takes_messages_in_either_form(tmp_path: Path, name: str) -> None:
    template, asked = template_of(name, tmp_path), [*SPOKEN, {"role": "user", "content": "继续"}]
    assert template.prompt(as_messages(asked)) == template.prompt(asked)  # type: ignore[arg-type]
    assert template.answer(as_messages(asked), "好") == template.answer(asked, "好")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FOLDERS)
def test_every_template_names_what_is_no_conversation_and_no_answer(tmp_path: Path, name: str) -> None:
    template = template_of(name, tmp_path)
    for messages in (None, 5, "你好", [5], {"role": "user", "content": "a"}):
        with pytest.raises(UserError, match=r"^messages(\[0\])?: must be "):
            template.prompt(messages)  # type: ignore[arg-type]
    for answer in (None, 3, ["好"]):
        with pytest.raises(UserError, match=r"^text: must be a text, got "):
            template.answer([Message("user", "你好")], answer)  # type: ignore[arg-type]
