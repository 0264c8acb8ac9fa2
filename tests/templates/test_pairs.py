import pytest

from imprint.messages import UserError
from imprint.templates import Message, make_messages
from imprint.templates.pairs import split_pairs


def test_turns_of_two_are_taken_apart() -> None:
    turns = [("你好", "你好！"), ("天气", "晴")]
    assert split_pairs(make_messages("再见", turns, "你是店员。"), "ChatGLM-6B") == ("再见", turns, "你是店员。")
    assert split_pairs(make_messages("再见"), "ChatGLM-6B") == ("再见", [], None)


@pytest.mark.parametrize(
    "message",
    [Message("observation", "晴"), Message("assistant", "{}", tool="weather"), Message("system", "", tools=({"name": "weather"},))],
)
def test_tools_are_refused(message: Message) -> None:
    with pytest.raises(
        UserError, match="ChatGLM-6B does not support tools: leave their calls and results out, or write them as plain text"
    ):
        split_pairs([message, Message("user", "你好")], "ChatGLM-6B")


@pytest.mark.parametrize("roles", [[], ["assistant"], ["user", "assistant"], ["user", "user"], ["user", "system", "user"]])
def test_other_orders_are_refused(roles: list[str]) -> None:
    messages = [Message(role, "好") for role in roles]  # type: ignore[arg-type]
    with pytest.raises(UserError, match="takes turns of user and assistant, a question last, a system prompt may come first; got: "):
        split_pairs(messages, "ChatGLM2-6B")
