"""Conversations in which tools are offered, called and answered, as ChatGLM3, GLM-4, OpenAI and ShareGPT write them.

A call is an assistant's message with the name of the tool and its arguments; what the tool gives back is an observation.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from imprint.data.readers.bad_rows import BadRowError, describe_value, valid_unicode
from imprint.data.sample import Sample
from imprint.templates import Message

CALL_ROLES: Final = ("function_call", "tool_call")
"""Roles of a call, whose content is an object with `name` and `arguments`."""
RESULT_ROLES: Final = ("tool", "function", "observation", "function_response", "tool_response")
"""Roles of what a tool gives back."""
CALL_KEYS: Final = ("metadata", "tool_calls", "function_call")
"""Where an assistant's turn is a call of a tool: ChatGLM3's and GLM-4's key, and OpenAI's two."""

ALLOWED_AFTER: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"": ("user",), "user": ("assistant",), "observation": ("assistant",), "assistant": ("user", "observation", "assistant")}
)
"""Who may speak after whom."""


@dataclass(frozen=True)
class ToolTurn:
    """A turn with what it says, and whether an answer in it is learned."""

    messages: tuple[Message, ...]
    """One message, or a call with its answer where a turn holds both."""
    learned: bool = True
    """Whether what the assistant says in it is learned."""


def is_tool_turn(turn: Mapping[str, object]) -> bool:
    """Whether a turn calls a tool, or tells what it gave back."""
    role = turn.get("role", turn.get("from"))
    return role in (*CALL_ROLES, *RESULT_ROLES) or any(
        isinstance(turn.get(key), str | list | dict) and bool(turn[key]) for key in CALL_KEYS
    )


def offered_tools(row: Mapping[str, object], turns: Sequence[object]) -> tuple[Mapping[str, object], ...]:
    """The tools that a row offers, in a column or with the system's turn; BadRowError where they are no list of objects."""
    first = turns[0] if turns and isinstance(turns[0], dict) else {}
    value = row.get("tools") or first.get("tools") or []
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise BadRowError(f'"tools" must be a list of objects, got {describe_value(value)}.')
    return tuple(value)


def tool_turn(turn: Mapping[str, object], number: int, column: str) -> ToolTurn:
    """What a turn says that calls a tool or tells what it gave back; BadRowError where the one or the other is missing."""
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    learned = turn.get("loss") is not False and turn.get("weight") != 0
    where = f'turn {number} of "{column}"'
    if role == "tool" and "parameters" in turn:  # the tool data of ChatGLM3's finetune_demo: call and answer in one
        call = _call(turn, "parameters", where)
        return ToolTurn((call, Message("observation", _as_text(turn.get("observation"), where))), learned)
    if role in RESULT_ROLES:
        return ToolTurn((Message("observation", _as_text(content, where)),), learned=False)
    if role in CALL_ROLES:
        return ToolTurn((_call(_as_object(content, where), "arguments", where),), learned)
    if isinstance(name := turn.get("metadata"), str):
        return ToolTurn((Message("assistant", _as_text(content, where), name),), learned)
    calls = turn.get("tool_calls") or [turn.get("function_call")]
    if not isinstance(calls, list) or len(calls) != 1 or not isinstance(calls[0], dict):
        raise BadRowError(f"{where} must call one tool, got {describe_value(calls)}.")
    return ToolTurn((_call(_as_object(calls[0].get("function", calls[0]), where), "arguments", where),), learned)


def samples_from_tool_turns(
    turns: Sequence[ToolTurn], system: str | None, tools: tuple[Mapping[str, object], ...], column: str, location: str
) -> Iterator[Sample]:
    """A sample for each learned answer or call, with all that was said before it. BadRowError where somebody speaks out of turn."""
    messages = [Message("system", system or "", tools=tools)] if system or tools else []
    start, query = len(messages), ""
    history: list[tuple[str, str]] = []
    for turn in turns:
        for message in turn.messages:
            before = messages[-1].role if len(messages) > start else ""
            if message.role not in ALLOWED_AFTER[before]:
                raise BadRowError(
                    f'"{column}": the {message.role} speaks {f"after the {before}" if before else "first"}; the user begins, and each '
                    "question and each answer of a tool is followed by the assistant."
                )
            if message.role == "assistant":
                if turn.learned:
                    yield Sample(query, message.text, tuple(history) or None, location, system, tuple(messages), message.tool)
                history.append((query, message.text))
            query = message.text if message.role != "assistant" else query
            messages.append(message)
    if not messages[start:] or messages[-1].role != "assistant":
        raise BadRowError(f'"{column}" ends without an answer of the assistant.')


def _call(value: Mapping[str, object], arguments: str, where: str) -> Message:
    name, given = value.get("name"), value.get(arguments)
    if not isinstance(name, str) or not name:
        raise BadRowError(f'{where} calls a tool without a "name".')
    return Message("assistant", _as_text("null" if given is None else given, where), name)


def _as_object(value: object, where: str) -> Mapping[str, object]:
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, dict):
        raise BadRowError(f'{where} must hold an object with "name" and "arguments", got {describe_value(value)}.')
    return value


def _as_text(value: object, where: str) -> str:
    """A text as it is, and anything else as JSON."""
    if value is None:
        raise BadRowError(f"{where} says nothing of what the tool gave back, or with what it is called.")
    return valid_unicode(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), where)
