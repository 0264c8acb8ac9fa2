"""Conversations of families that know questions and answers alone."""

from collections.abc import Sequence

from imprint.errors import UserError
from imprint.messages import Bilingual
from imprint.templates.conversation import Message, split_rounds


def split_pairs(messages: Sequence[Message], family: str) -> tuple[str, list[tuple[str, str]], str | None]:
    """The last question, the (question, answer) turns before it, and what the model is told first.

    Raises UserError for anything else, in the name of the family.
    """
    system_messages, rounds = split_rounds(messages)
    tools = any(message.tool or message.tools or message.role == "observation" for message in messages)
    earlier = [[message.role for message in said] for said in rounds[:-1]]
    if tools:
        raise UserError(
            Bilingual(f"{family} knows no tools: leave their calls and answers out, or write them as plain text.", "该模型没有工具调用。")
        )
    if not rounds or [message.role for message in rounds[-1]] != ["user"] or any(said != ["user", "assistant"] for said in earlier):
        said = " ".join(message.role for message in messages)
        raise UserError(
            f"{family} takes turns of user and assistant, a question last, perhaps a system text first; got: {said or 'nothing'}."
        )
    return rounds[-1][0].text, [(said[0].text, said[1].text) for said in rounds[:-1]], system_messages[0].text if system_messages else None
