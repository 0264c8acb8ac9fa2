"""Conversations with tool calls, in the formats of ChatGLM3, GLM-4, OpenAI and ShareGPT.

A call is an assistant message with the name of the tool and its arguments; the result of a tool is an observation.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from types import MappingProxyType
from typing import Final

from imprint.data.readers.bad_rows import (
    BadRowError,
    clip,
    describe_value,
    has_both,
    is_missing,
    key_in,
    must_be,
    part_of,
    quote,
    quote_names,
    turn_of,
    valid_unicode,
)
from imprint.data.sample import Sample
from imprint.data.turns import LEARNED_KEYS, PAIR_KEYS, ROLES, SPEAKER_KEYS, TEXT_KEYS, is_learned, speaker
from imprint.messages import Bilingual
from imprint.templates import Message

CALL_ROLES: Final = ("function_call", "tool_call")
"""Roles of a call, whose content is an object with `name` and `arguments`."""
RESULT_ROLES: Final = ("tool", "function", "observation", "function_response", "tool_response")
"""Roles of a tool's result."""
CALL_KEYS: Final = frozenset({"tool_calls", "function_call"})
"""OpenAI's keys of an assistant turn that calls a tool; ChatGLM3 and GLM-4 have the tool's name in `metadata`."""
THOUGHT_KEYS: Final = ("reasoning_content", "reasoning", "thinking")
"""Keys of an assistant's turn with what it thought: those of DeepSeek's and of other services."""
TEXT_PARTS: Final = (None, "text", "input_text", "output_text")
"""Types of a part of a content that is text, in OpenAI's formats."""

ALLOWED_AFTER: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "": ("user",),
        "user": ("assistant",),
        "observation": ("assistant", "observation"),
        "assistant": ("user", "observation", "assistant"),
    }
)
"""Role -> roles that may follow it; "" is the start."""


@dataclass(frozen=True)
class TurnMessages:
    """A turn with its messages, and whether it is learned."""

    messages: tuple[Message, ...]
    """One message, a text with the calls after them, or a call with its result if the turn holds both."""
    learned: bool = True
    """Whether its assistant message is learned."""


def is_tool_turn(turn: Mapping[str, object]) -> bool:
    """Whether a turn is a tool call or a tool's result."""
    role = _role(turn)
    if role in CALL_ROLES or role in RESULT_ROLES:
        return True
    if not CALL_KEYS.isdisjoint(turn) and any(_calls(turn, key) for key in CALL_KEYS):
        return True
    return _is_assistant(role) and isinstance(turn.get("metadata"), str) and bool(turn["metadata"])


def unread_keys(turn: Mapping[str, object]) -> list[str]:
    """The keys of a turn that have a value and are not read."""
    pair = next((keys for keys in PAIR_KEYS if set(keys) <= turn.keys()), ()) if speaker(turn) is None else (*SPEAKER_KEYS, *TEXT_KEYS)
    optional = (*LEARNED_KEYS, *THOUGHT_KEYS, *CALL_KEYS, "system", "tools", "metadata", "parameters", "observation")
    names = ("name", "tool_call_id") if is_tool_turn(turn) else ()
    return [key for key, value in turn.items() if key not in (*pair, *optional, *names) and value is not None]


def _role(turn: Mapping[str, object]) -> object:
    """Who speaks in a turn, in lower case."""
    role = speaker(turn)
    return role.lower() if isinstance(role, str) else role


def _is_assistant(role: object) -> bool:
    return isinstance(role, str) and ROLES.get(role) == "assistant"


def _calls(turn: Mapping[str, object], key: str) -> object:
    """The calls under a key of a turn, which tables hold as JSON text; None without any, also if all fields of a call are null."""
    value = _parsed(turn.get(key))
    if isinstance(value, dict) and all(part is None for part in value.values()):
        return None
    return value if isinstance(value, str | list | dict) and value else None


def _parsed(value: object) -> object:
    """The value of a JSON text; any other value unchanged."""
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def offered_tools(column: object, turns: Sequence[object]) -> tuple[Mapping[str, object] | str, ...]:
    """The tools of a row, from a column or the system turn: objects, or texts as in ChatGLM3's own tool data.

    Raises BadRowError if they are anything else.
    """
    first = turns[0] if turns and isinstance(turns[0], dict) else {}
    value = _parsed(next((tools for tools in (column, first.get("tools")) if tools and not is_missing(tools)), [])) or []
    if not isinstance(value, list) or not all(isinstance(tool, dict | str) for tool in value):
        raise must_be("tools", "a list of objects or texts", "对象或文本的列表", value)
    return tuple(valid_unicode(tool, "tools") if isinstance(tool, str) else tool for tool in value)


def tool_turn(turn: Mapping[str, object], number: int, column: str) -> TurnMessages:
    """Parse a turn with a tool call or a tool's result. Raises BadRowError if either is malformed."""
    role, content = _role(turn), next((turn[key] for key in TEXT_KEYS if key in turn), None)
    subject = turn_of(number, column)
    if role == "tool" and "parameters" in turn:  # tool data of ChatGLM3's finetune_demo: call and result in one turn
        call = _call(turn, "parameters", subject)
        return TurnMessages((call, Message("observation", _as_text(turn.get("observation"), subject))), is_learned(turn, subject))
    if role in RESULT_ROLES:
        return TurnMessages((Message("observation", _as_text(content, subject)),), learned=False)
    learned = is_learned(turn, subject)
    if role in CALL_ROLES:
        return TurnMessages(_joined([_call(call, "arguments", subject) for call in _as_objects(content, subject)]), learned)
    if not _is_assistant(role):
        found = describe_value(speaker(turn))
        raise BadRowError(
            Bilingual(
                f"{subject.english} calls a tool, which only the assistant does; its role is {found.english}.",
                f"{subject.chinese}调用了工具，而只有助手可以调用，其角色为{found.chinese}。",
            )
        )
    if isinstance(name := turn.get("metadata"), str) and name:
        return TurnMessages((Message("assistant", _as_text(content, subject), name),), learned)
    listed, single = _calls(turn, "tool_calls"), _calls(turn, "function_call")
    if listed and single:
        raise has_both(subject, ("tool_calls", "function_call"))
    calls = listed or [single]
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise must_be(key_in(subject, "tool_calls"), "a list of objects", "对象的列表", calls)
    called = [_call(_as_objects(call.get("function", call), subject)[0], "arguments", subject) for call in calls]
    text = content_with_reasoning(turn, "" if content is None else content, subject)
    if text is not None and not isinstance(text, str):
        raise must_be(Bilingual(f"the words of {subject.english}", f"{subject.chinese}的文字"), "a text", "文本", content)
    first = [Message("assistant", valid_unicode(text, subject))] if text and text.strip() else []
    return TurnMessages(_joined([*first, *called]), learned)


def samples_from_turn_messages(
    turns: Sequence[TurnMessages], system: str | None, tools: tuple[Mapping[str, object] | str, ...], column: str, location: str
) -> Iterator[Sample]:
    """A sample for each learned answer or call, with all earlier messages. Raises BadRowError for a wrong order of roles."""
    messages = [Message("system", system or "", tools=tools)] if system or tools else []
    start, query = len(messages), ""
    history: list[tuple[str, str]] = []
    for turn in _merged(turns):
        for index, message in enumerate(turn.messages):
            previous = messages[-1].role if len(messages) > start else ""
            if message.role not in ALLOWED_AFTER[previous]:
                position = f"after the {previous}" if previous else "first"
                raise BadRowError(
                    Bilingual(
                        f'"{column}": the {message.role} comes {position}; the user begins, and the assistant follows each question '
                        "and each result of a tool.",
                        f"{quote(column)} 中 {message.role} {f'接在 {previous} 之后' if previous else '在最前'}："
                        "须由用户开始，每个问题和每个工具结果之后都是助手。",
                    )
                )
            if message.role != "assistant":
                query = message.text
            elif not message.continues:
                rest = tuple(takewhile(lambda one: one.continues, turn.messages[index + 1 :]))
                if turn.learned:
                    yield Sample(query, message.text, tuple(history) or None, location, system, tuple(messages), message.tool, rest)
                history.append((query, "\n".join(one.text for one in (message, *rest))))
            messages.append(message)
    if not messages[start:] or messages[-1].role != "assistant":
        raise BadRowError(Bilingual(f'"{column}" ends without an answer of the assistant.', f"{quote(column)} 的末尾没有助手的回答。"))


def _merged(turns: Sequence[TurnMessages]) -> list[TurnMessages]:
    """The turns, with a call that follows the assistant's words or another call made a part of that turn: nothing ends between them."""
    merged: list[TurnMessages] = []
    for turn in turns:
        before = merged[-1] if merged else None
        if before and turn.messages[0].tool and before.messages[-1].role == "assistant" and before.learned == turn.learned:
            call = replace(turn.messages[0], continues=True)
            merged[-1] = replace(before, messages=(*before.messages, call, *turn.messages[1:]))
        else:
            merged.append(turn)
    return merged


def content_with_reasoning(turn: Mapping[str, object], content: object, subject: Bilingual) -> object:
    """What a turn says: its content, with thoughts that are in a field of their own before it, in the tags of DeepSeek-R1 and Qwen3.

    Raises BadRowError for thoughts that are no text.
    """
    text = join_parts(content)
    for name in THOUGHT_KEYS:
        thoughts = turn.get(name)
        if thoughts is None or thoughts == "":
            continue
        if not isinstance(thoughts, str):
            raise must_be(part_of(subject, name), "a text", "文本", thoughts)
        if isinstance(text, str) and thoughts.strip() not in text:
            return f"<think>\n{valid_unicode(thoughts, subject).strip()}\n</think>\n\n{text}"
    return text


def join_parts(content: object) -> object:
    """The joined text of a content of parts, as in OpenAI's format."""
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("type") in TEXT_PARTS for part in content
    ):
        return "".join(part["text"] for part in content)
    return content


def _joined(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Messages of one turn."""
    return tuple(replace(message, continues=index > 0) for index, message in enumerate(messages))


def _call(value: Mapping[str, object], arguments: str, subject: Bilingual) -> Message:
    name, content = value.get("name"), value.get(arguments)
    if not isinstance(name, str) or not name:
        raise BadRowError(Bilingual(f'{subject.english} calls a tool without a "name".', f'{subject.chinese}调用工具而没有 "name"。'))
    unknown = [key for key in value if key not in ("name", "id", "type", "index", "role", "content", "observation")]
    if arguments not in value and unknown:
        found = quote_names(unknown)
        raise BadRowError(
            Bilingual(
                f'{subject.english} calls "{clip(name)}" without "{arguments}", but with {found.english}.',
                f'{subject.chinese}调用 "{clip(name)}" 而没有 "{arguments}"，却有 {found.chinese}。',
            )
        )
    return Message("assistant", _as_text("null" if content is None else content, subject), name)


def _as_objects(value: object, subject: Bilingual) -> list[Mapping[str, object]]:
    """The calls in a content: an object, or a list of several."""
    value = _parsed(value)
    calls = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(call, dict) for call in calls):
        found = describe_value(value)
        raise BadRowError(
            Bilingual(
                f'{subject.english} must hold an object with "name" and "arguments", got {found.english}.',
                f'{subject.chinese}须含有带 "name" 和 "arguments" 的对象，实际为{found.chinese}。',
            )
        )
    return [call for call in calls if isinstance(call, dict)]


def _as_text(value: object, subject: Bilingual) -> str:
    """A text unchanged, anything else as JSON."""
    if value is None:
        raise BadRowError(
            Bilingual(f"{subject.english} has no result or no arguments of the tool.", f"{subject.chinese}没有工具的结果或参数。")
        )
    return valid_unicode(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), subject)
