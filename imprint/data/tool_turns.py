"""Conversations with tool calls, in the formats of ChatGLM3, GLM-4, OpenAI and ShareGPT.

A call is an assistant message with the name of the tool and its arguments; the result of a tool is an observation.
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
"""Roles of a tool's result."""
CALL_KEYS: Final = ("metadata", "tool_calls", "function_call")
"""Keys of an assistant turn that calls a tool: that of ChatGLM3 and GLM-4, and OpenAI's two."""

ALLOWED_AFTER: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"": ("user",), "user": ("assistant",), "observation": ("assistant",), "assistant": ("user", "observation", "assistant")}
)
"""Role -> roles that may follow it; "" is the start."""


@dataclass(frozen=True)
class ToolTurn:
    """A turn with its messages, and whether it is learned."""

    messages: tuple[Message, ...]
    """One message, or a call with its result if the turn holds both."""
    learned: bool = True
    """Whether its assistant message is learned."""


def is_tool_turn(turn: Mapping[str, object]) -> bool:
    """Whether a turn is a tool call or a tool's result."""
    role = turn.get("role", turn.get("from"))
    return role in (*CALL_ROLES, *RESULT_ROLES) or any(
        isinstance(turn.get(key), str | list | dict) and bool(turn[key]) for key in CALL_KEYS
    )


def offered_tools(row: Mapping[str, object], turns: Sequence[object]) -> tuple[Mapping[str, object], ...]:
    """The tools of a row, from a column or the system turn. Raises BadRowError if they are not a list of objects."""
    first = turns[0] if turns and isinstance(turns[0], dict) else {}
    value = row.get("tools") or first.get("tools") or []
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise BadRowError(f'"tools" must be a list of objects, got {describe_value(value)}.')
    return tuple(value)


def tool_turn(turn: Mapping[str, object], number: int, column: str) -> ToolTurn:
    """Parse a turn with a tool call or a tool's result. Raises BadRowError if either is malformed."""
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    learned = turn.get("loss") is not False and turn.get("weight") != 0
    subject = f'turn {number} of "{column}"'
    if role == "tool" and "parameters" in turn:  # tool data of ChatGLM3's finetune_demo: call and result in one turn
        call = _call(turn, "parameters", subject)
        return ToolTurn((call, Message("observation", _as_text(turn.get("observation"), subject))), learned)
    if role in RESULT_ROLES:
        return ToolTurn((Message("observation", _as_text(content, subject)),), learned=False)
    if role in CALL_ROLES:
        return ToolTurn((_call(_as_object(content, subject), "arguments", subject),), learned)
    if isinstance(name := turn.get("metadata"), str):
        return ToolTurn((Message("assistant", _as_text(content, subject), name),), learned)
    calls = turn.get("tool_calls") or [turn.get("function_call")]
    if not isinstance(calls, list) or len(calls) != 1 or not isinstance(calls[0], dict):
        raise BadRowError(f"{subject} must call one tool, got {describe_value(calls)}.")
    return ToolTurn((_call(_as_object(calls[0].get("function", calls[0]), subject), "arguments", subject),), learned)


def samples_from_tool_turns(
    turns: Sequence[ToolTurn], system: str | None, tools: tuple[Mapping[str, object], ...], column: str, location: str
) -> Iterator[Sample]:
    """A sample for each learned answer or call, with all earlier messages. Raises BadRowError for a wrong order of roles."""
    messages = [Message("system", system or "", tools=tools)] if system or tools else []
    start, query = len(messages), ""
    history: list[tuple[str, str]] = []
    for turn in turns:
        for message in turn.messages:
            previous = messages[-1].role if len(messages) > start else ""
            if message.role not in ALLOWED_AFTER[previous]:
                raise BadRowError(
                    f'"{column}": the {message.role} comes {f"after the {previous}" if previous else "first"}; the user begins, and the '
                    "assistant follows each question and each result of a tool."
                )
            if message.role == "assistant":
                if turn.learned:
                    yield Sample(query, message.text, tuple(history) or None, location, system, tuple(messages), message.tool)
                history.append((query, message.text))
            query = message.text if message.role != "assistant" else query
            messages.append(message)
    if not messages[start:] or messages[-1].role != "assistant":
        raise BadRowError(f'"{column}" ends without an answer of the assistant.')


def _call(value: Mapping[str, object], arguments: str, subject: str) -> Message:
    name, content = value.get("name"), value.get(arguments)
    if not isinstance(name, str) or not name:
        raise BadRowError(f'{subject} calls a tool without a "name".')
    return Message("assistant", _as_text("null" if content is None else content, subject), name)


def _as_object(value: object, subject: str) -> Mapping[str, object]:
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, dict):
        raise BadRowError(f'{subject} must hold an object with "name" and "arguments", got {describe_value(value)}.')
    return value


def _as_text(value: object, subject: str) -> str:
    """A text unchanged, anything else as JSON."""
    if value is None:
        raise BadRowError(f"{subject} has no result or no arguments of the tool.")
    return valid_unicode(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), subject)
