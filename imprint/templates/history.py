"""The conversations that the public Python functions take: pairs of question and answer, or messages with `role` and `content`.

`messages` is the form in which the chat functions of ChatGLM3 and GLM-4, and OpenAI's, hold a conversation.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from imprint.arguments import text, wrong_argument
from imprint.messages import Bilingual, UserError
from imprint.templates.conversation import Message, Role, Turns

ROLES: Final[Mapping[str, Role]] = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "observation": "observation",
    "tool": "observation",
}
KEYS: Final = frozenset({"role", "content", "metadata", "tools"})
"""Keys of a message; `metadata` is the tool that it calls, as in ChatGLM3, and `tools` are those of a system prompt."""


def conversation(query: object, history: object = None, system: object = None) -> list[Message]:
    """The messages of a question with its history and system prompt.

    Raises UserError for anything but a text, and for a history that is neither pairs nor messages.
    """
    earlier = read_messages(history, "history")
    prompt = None if system is None else text("system", system)
    if prompt and earlier and earlier[0].role == "system":
        raise UserError(
            Bilingual(
                "system: the history begins with a system prompt already. Leave out one of them.",
                "history 已以 system 消息开头：请去掉其中一个。",
            )
        )
    return [*([Message("system", prompt)] if prompt else []), *earlier, Message("user", text("query", query))]


def read_messages(history: object, name: str) -> list[Message]:
    """The messages of a history in either form; none of None. Raises UserError for anything else, with the place."""
    if history is None:
        return []
    if not isinstance(history, Sequence) or isinstance(history, str | bytes):
        raise wrong_argument(
            name, "a list of (question, answer) pairs, or of messages with role and content", history, "问答对或消息的列表"
        )
    messages: list[Message] = []
    for index, turn in enumerate(history):
        where = f"{name}[{index}]"
        if isinstance(turn, Message):
            messages.append(turn)
        elif isinstance(turn, Mapping):
            messages.append(_message(turn, where))
        elif isinstance(turn, Sequence) and not isinstance(turn, str | bytes) and len(turn) == len(("question", "answer")):
            messages += [Message("user", text(f"{where}[0]", turn[0])), Message("assistant", text(f"{where}[1]", turn[1]))]
        else:
            raise wrong_argument(
                where, "a (question, answer) pair, or a message with role and content", turn, "问答对，或带 role 与 content 的消息"
            )
    return messages


def as_messages(messages: Sequence[Message] | Sequence[Mapping[str, object]]) -> Sequence[Message]:
    """Messages in either form. Raises UserError as `read_messages`, and for None."""
    if isinstance(messages, list | tuple) and all(isinstance(message, Message) for message in messages):
        return messages
    if messages is None:
        raise wrong_argument("messages", "a list of messages with role and content", messages, "带 role 与 content 的消息列表")
    return read_messages(messages, "messages")


def read_pairs(history: object, name: str) -> tuple[tuple[str, str], ...] | None:
    """The (question, answer) pairs of a history in either form; None stays None. Raises UserError for any other order of roles."""
    if history is None:
        return None
    messages = read_messages(history, name)
    questions, answers = messages[::2], messages[1::2]
    if any(one.role != "user" for one in questions) or any(one.role != "assistant" or one.tool for one in answers) or len(messages) % 2:
        roles = " ".join(message.role for message in messages)
        raise UserError(
            Bilingual(f"{name}: must be turns of user and assistant, got: {roles}.", f"{name} 须由用户和助手轮流发言，以回答结束。")
        )
    return tuple((question.text, answer.text) for question, answer in zip(questions, answers, strict=True))


def with_turn(history: Sequence[Any] | Turns | None, query: str, answer: str) -> list[Any]:
    """The history with one more turn, in the form in which it was given."""
    turns = list(history or ())
    if turns and not isinstance(turns[-1], list | tuple):
        return [*turns, {"role": "user", "content": query}, {"role": "assistant", "content": answer}]
    return [*turns, (query, answer)]


def _message(fields: Mapping[Any, Any], where: str) -> Message:
    unknown = [str(key) for key in fields if key not in KEYS]
    if unknown or not {"role", "content"} <= fields.keys():
        found = ", ".join(map(str, fields)) or "none"
        raise UserError(
            Bilingual(
                f"{where}: a message has role and content, and may have metadata and tools; found {found}.",
                f"{where}：消息须有 role 和 content，另可有 metadata 和 tools。",
            )
        )
    role = fields["role"]
    if not isinstance(role, str) or role not in ROLES:
        raise wrong_argument(f"{where}.role", f"one of {', '.join(ROLES)}", role, "、".join(ROLES) + " 之一")
    tools = fields.get("tools") or ()
    if not isinstance(tools, list | tuple) or not all(isinstance(tool, Mapping | str) for tool in tools) or (tools and role != "system"):
        raise wrong_argument(f"{where}.tools", "a list of objects in a system prompt", tools, "system 消息中的工具列表")
    tool = text(f"{where}.metadata", fields.get("metadata") or "")
    if tool and role != "assistant":
        raise wrong_argument(f"{where}.metadata", "empty unless the assistant calls a tool", tool, "空（仅助手调用工具时可用）")
    return Message(ROLES[role], text(f"{where}.content", fields["content"]), tool, tuple(tools))
