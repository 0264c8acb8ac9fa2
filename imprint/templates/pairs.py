"""Conversations of families without roles and tools: (question, answer) pairs."""

from collections.abc import Sequence

from imprint.messages import Bilingual, UserError
from imprint.templates.conversation import Message, split_rounds
from imprint.templates.history import as_messages


def split_pairs(messages: Sequence[Message], family: str) -> tuple[str, list[tuple[str, str]], str | None]:
    """(last question, earlier (question, answer) turns, system prompt).

    Raises UserError, with the name of the family, for any other order of roles and for tools.
    """
    messages = as_messages(messages)
    system_messages, rounds = split_rounds(messages)
    tools = any(message.tool or message.tools or message.role == "observation" for message in messages)
    earlier = [[message.role for message in turn] for turn in rounds[:-1]]
    if tools:
        raise UserError(
            Bilingual(
                f"{family} does not support tools: leave their calls and results out, or write them as plain text.",
                f"{family}：该模型不支持工具调用：请去掉工具消息，或写成普通文本。",
            )
        )
    if not rounds or [message.role for message in rounds[-1]] != ["user"] or any(roles != ["user", "assistant"] for roles in earlier):
        roles = " ".join(message.role for message in messages)
        raise UserError(
            Bilingual(
                f"{family} takes turns of user and assistant, a question last, a system prompt may come first; got: {roles or 'nothing'}.",
                f"{family}：对话须由用户和助手轮流发言，以用户的问题结束，开头可有一段系统提示。",
            )
        )
    return (
        rounds[-1][0].text,
        [(question.text, answer.text) for question, answer in rounds[:-1]],
        system_messages[0].text if system_messages else None,
    )
