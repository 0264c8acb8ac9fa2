"""Tools: their definitions and results as messages of a template, and an answer that calls one as OpenAI's API writes it."""

import ast
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from imprint.messages import Bilingual
from imprint.serve.generation.job import ModelInfo
from imprint.serve.json_bounds import MAX_VALUES, count_values
from imprint.serve.web.errors import ApiError
from imprint.serve.web.openai_bodies import ChatBody, ChatMessage
from imprint.tokenizers.tokenizer import well_formed

CALL_TAGS: Final = ("<tool_call>", "</tool_call>")
"""What is around a call as Qwen and others write it."""
CODE_CALL: Final = re.compile(r"^(?:```python\n)?tool_call\((.*)\)\s*(?:```)?$", re.DOTALL)
"""The arguments of a call as ChatGLM3 writes them."""
NO_TOOLS: Final = Bilingual(
    "this model's template has no tools; leave out tools and messages of tools.", "该模型的模板不支持工具；请去掉。"
)
NO_CHOICE: Final = Bilingual('must be "auto" or "none": a call cannot be forced.', '须为 "auto" 或 "none"：不能强制调用。')
BAD_TOOL: Final = Bilingual(
    'must be {"type": "function", "function": {"name": ...}}.', '须为 {"type": "function", "function": {"name": ...}}。'
)
MANY_ARGUMENTS: Final = Bilingual(
    f"tool_calls: the arguments of all calls have more than {MAX_VALUES:,} values together.",
    f"tool_calls：各次调用的 arguments 合计超过 {MAX_VALUES:,} 个值。",
)


@dataclass(frozen=True)
class ToolUse:
    """The tools that an answer may call."""

    names: frozenset[str]
    """Their names."""


def tool_use(body: ChatBody, model: ModelInfo) -> ToolUse | None:
    """The tools of a request; None without. Raises ApiError where the model has none, and for a choice that cannot be forced."""
    about_tools = any(message.role == "tool" or message.tool_calls for message in body.messages)
    if (body.tools or about_tools) and not model.supports_tools:
        raise ApiError("unsupported_value", Bilingual(f"tools: {NO_TOOLS.english}", f"tools：{NO_TOOLS.chinese}"), param="tools")
    if body.tool_choice not in (None, "auto", "none"):
        raise ApiError(
            "unsupported_value", Bilingual(f"tool_choice {NO_CHOICE.english}", f"tool_choice {NO_CHOICE.chinese}"), param="tool_choice"
        )
    names = [_tool_name(tool, f"tools[{index}]") for index, tool in enumerate(body.tools or ())]
    return ToolUse(frozenset(names)) if names and body.tool_choice != "none" else None


def _tool_name(tool: Mapping[str, Any], param: str) -> str:
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if tool.get("type") != "function" or not isinstance(name, str) or not name.strip():
        raise ApiError("invalid_value", Bilingual(f"{param} {BAD_TOOL.english}", f"{param} {BAD_TOOL.chinese}"), param=param)
    return name


def as_messages(messages: Sequence[ChatMessage], tools: Sequence[Mapping[str, Any]] = ()) -> tuple[Mapping[str, object], ...]:
    """Messages as templates take them: tools belong to the system prompt, and each call is a message of its own.

    Raises ApiError for arguments, which templates parse, of more values than a body may have.
    """
    calls = (call for message in messages for call in message.tool_calls or ())
    if sum(count_values(call.function.arguments) for call in calls) > MAX_VALUES:
        raise ApiError("invalid_value", MANY_ARGUMENTS, param="messages")
    converted: list[dict[str, object]] = []
    for message in messages:
        role = "system" if message.role == "developer" else message.role
        if (text := message.text) or not message.tool_calls:
            converted.append({"role": role, "content": text})
        converted += [
            {"role": "assistant", "content": call.function.arguments, "metadata": call.function.name} for call in message.tool_calls or ()
        ]
    if tools:
        if not converted or converted[0]["role"] != "system":
            converted.insert(0, {"role": "system", "content": ""})
        converted[0]["tools"] = list(tools)
    return tuple(converted)


def as_tool_calls(text: str, tools: ToolUse | None) -> list[dict[str, Any]]:
    """The calls that an answer is; empty if it is words, or names a tool that was not offered."""
    if tools is None:
        return []
    calls = _tagged_calls(text) or _named_call(text)
    if not calls or any(name not in tools.names for name, _ in calls):
        return []
    return [
        {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for name, arguments in calls
    ]


def _tagged_calls(text: str) -> list[tuple[str, str]]:
    """The calls between tags; each character is looked at once, as a model may be asked to write tags without an end."""
    calls = []
    for part in text.split(CALL_TAGS[0])[1:]:
        text_of_call, closing, _ = part.partition(CALL_TAGS[1])
        if not closing or not text_of_call.strip().startswith("{"):
            continue
        try:
            call = json.loads(text_of_call)
        except (ValueError, RecursionError):
            return []
        if not isinstance(call.get("name"), str):
            return []
        calls.append((call["name"], _json(call.get("arguments", {}))))
    return calls


def _json(value: object) -> str:
    """A value as JSON; half of a surrogate pair, which an escape may write, becomes U+FFFD."""
    return well_formed(json.dumps(value, ensure_ascii=False))


def _named_call(text: str) -> list[tuple[str, str]]:
    """The call of ChatGLM3 and GLM-4: the tool's name on the first line, the arguments below it."""
    name, newline, rest = text.strip().partition("\n")
    arguments = _arguments(rest.strip()) if newline else None
    return [] if arguments is None else [(name.strip(), arguments)]


def _arguments(text: str) -> str | None:
    code = CODE_CALL.match(text)
    try:
        if code is None:
            return text if isinstance(json.loads(text), dict) else None
        call = ast.parse(f"tool_call({code[1]})", mode="eval").body
        assert isinstance(call, ast.Call)
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            return None
        values = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
        return _json(values)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, AssertionError):
        return None
