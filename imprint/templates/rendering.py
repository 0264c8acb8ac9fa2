"""How a chat template of a model folder writes messages: what it supports is found by rendering small conversations."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from imprint.messages import Bilingual, UserError
from imprint.templates.conversation import Message
from imprint.terminal import say_once
from imprint.tokenizers import BRACKETED, ESCAPE_MARK, HFTokenizer, render_chat_template

QUESTION: Final = "1618033988"
ANSWER: Final = "2718281828"
"""Texts that are looked for in what a template writes; digits, so that upper case does not change them."""
TEXT: Final = "3141592653"
SYSTEM: Final = "5772156649"
TOOLS: Final = ("t4669201609", "t2502907875")


LEAVES_OUT_CALLS: Final = Bilingual(
    "the model's own chat template leaves out calls of tools or their results, so what follows them would be learned or asked without "
    "them. Leave such conversations out, or write calls and results as text.",
    "该模型自带的对话模板会漏掉工具调用或工具结果：请去掉这样的对话，或把调用和结果写成普通文本。",
)
LEAVES_OUT_TOOLS: Final = Bilingual(
    "the model's own chat template does not write the descriptions of tools; they are left out",
    "该模型自带的对话模板不写工具的描述，将省略",
)
LEAVES_OUT_EARLIER: Final = Bilingual(
    "the model's own chat template does not write all earlier turns of a conversation; what it leaves out, the model does not see",
    "该模型自带的对话模板不会写出全部较早的轮次，模型看不到被省略的内容",
)


@dataclass(frozen=True)
class TurnDelimiters:
    """What a chat template puts around the turns of a conversation."""

    end_name: str
    """The token right after an answer; empty if it puts none there."""
    to_mark_special: frozenset[str]
    """Tokens that delimit turns though the file adds them as ordinary ones; as special ones, their typed names are text."""
    ends_last: bool = True
    """Whether it stands after the last answer of a conversation, too; otherwise it opens the next turn."""
    marker: str = ANSWER
    """The answer that was rendered."""


@dataclass(frozen=True)
class Rendering:
    """Writes messages with the chat template of a tokenizer."""

    tokenizer: HFTokenizer
    """The tokenizer, with the template."""
    trailing_spaces: int = 0
    """Spaces at the end of a generation prompt; they are left to the answer, whose first word holds them in most vocabularies."""
    folds_system: bool = False
    """Whether the template writes no system prompt, so that it becomes a paragraph before the first question."""
    joins_calls: bool = True
    """Whether it writes text and all calls of a turn; otherwise each is a message of its own."""
    writes_calls: bool = True
    """Whether it writes calls of tools at all."""
    writes_results: bool = True
    """Whether it writes what a tool returned."""
    writes_tools: bool = True
    """Whether it writes the descriptions of tools."""
    wraps_tools: bool = False
    """Whether it writes only those inside of an object with `function`, as in OpenAI's format."""
    takes_parts: bool = False
    """Whether it reads a content as a list of parts alone, as templates of models that see images may."""
    text_arguments: bool = False
    """Whether it writes the arguments of a call as a text alone, as that of DeepSeek-R1; an object it refuses, or prints as Python does."""

    @classmethod
    def of(cls, tokenizer: HFTokenizer) -> "Rendering":
        """The rendering of a tokenizer's template. Raises UserError for a template that cannot write a question."""
        question, answer = Message("user", QUESTION), Message("assistant", ANSWER)
        plain = cls(tokenizer)
        prompt = plain.render([question], answering=True)
        if QUESTION not in prompt:
            plain = cls(tokenizer, takes_parts=True)
            prompt = plain.render([question], answering=True)
        whole = plain.render([question, answer], answering=False)
        renderings = (("user", QUESTION, prompt), ("assistant", ANSWER, whole))
        if missing := [role for role, text, rendered in renderings if text not in rendered]:
            raise UserError(
                Bilingual(
                    f"the model's own chat template leaves out what the {missing[0]} says. Set template=plain (model.template in a "
                    "recipe), or take the chat template of the official folder.",
                    "该模型自带的对话模板漏掉了发言内容：请设 template=plain，或使用官方目录中的对话模板。",
                )
            )
        one_call = [question, Message("assistant", f'{{"{TEXT}": 1}}', TOOLS[0])]
        as_object, texts = plain._rendered(one_call), replace(plain, text_arguments=True)
        if (TOOLS[0] not in as_object or f"'{TEXT}'" in as_object) and texts._renders(one_call, TOOLS[0]):
            plain = texts
        if not plain._renders([question, answer, Message("user", TEXT)], QUESTION, ANSWER, TEXT):
            say_once(str(LEAVES_OUT_EARLIER))
        tool = {"name": TOOLS[0], "description": TEXT, "parameters": {"type": "object", "properties": {}}}
        bare, wrapped = (plain._renders([Message("system", "", tools=(one,)), question], TOOLS[0]) for one in (tool, _as_function(tool)))
        calls = [Message("assistant", "{}", name, continues=True) for name in TOOLS]
        return replace(
            plain,
            trailing_spaces=len(prompt) - len(prompt.rstrip(" ")),
            folds_system=not plain._renders([Message("system", SYSTEM), question], SYSTEM),
            joins_calls=plain._renders([question, Message("assistant", TEXT), *calls], TEXT, *TOOLS),
            writes_calls=plain._renders(one_call, TOOLS[0]),
            writes_results=plain._renders([*one_call, Message("observation", ANSWER)], ANSWER),
            writes_tools=bare or wrapped,
            wraps_tools=wrapped and not bare,
        )

    def render(self, messages: Sequence[Message], *, answering: bool) -> str:
        """The rendered messages, with an ESCAPE_MARK in typed special tokens; `answering` adds the generation prompt.

        Raises UserError for messages that the template refuses or leaves out; descriptions of tools that it leaves out are said.
        """
        if any(
            (message.tool and not self.writes_calls) or (message.role == "observation" and not self.writes_results) for message in messages
        ):
            raise UserError(LEAVES_OUT_CALLS)
        described = [_as_function(tool) if self.wraps_tools else tool for message in messages for tool in message.tools]
        tools = [escape_all(self.tokenizer, tool) for tool in described]
        if tools and not self.writes_tools:
            say_once(str(LEAVES_OUT_TOOLS))
        dicts = self._dicts(self._with_system(messages) if self.folds_system else messages)
        rendered = render_chat_template(self.tokenizer.special_tokens, dicts, tools, answering=answering)
        spaces = self.trailing_spaces if answering else 0
        return rendered[:-spaces] if spaces and rendered.endswith(" " * spaces) else rendered

    def delimiters(self) -> TurnDelimiters:
        """What delimits the turns of a conversation."""
        turns = [Message("user", "1"), Message("assistant", ANSWER), Message("user", "2")]
        rendered = self.render(turns, answering=False)
        after, added = rendered.partition(ANSWER)[2].lstrip(), self.tokenizer.added
        end = max((name for name in added if name.strip() and after.startswith(name)), key=len, default="")
        delimiting = {name for name in added if name in rendered and BRACKETED.fullmatch(name) and not _paired(name, added)}
        last = bool(end) and end in self.render(turns[:2], answering=False).partition(ANSWER)[2]
        return TurnDelimiters(end, frozenset({*delimiting, *([end] if end else [])} - self.tokenizer.controls.keys()), ends_last=last)

    def _renders(self, messages: Sequence[Message], *texts: str) -> bool:
        """Whether the template writes these messages with these texts."""
        rendered = self._rendered(messages)
        return all(text in rendered for text in texts)

    def _rendered(self, messages: Sequence[Message]) -> str:
        """The rendered messages; empty if the template refuses them."""
        try:
            return self.render(messages, answering=False)
        except UserError:
            return ""

    def _with_system(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages with the system prompt before the first question."""
        if not messages or messages[0].role != "system":
            return messages
        system, *others = messages
        first = next((index for index, message in enumerate(others) if message.role == "user"), None)
        if not system.text.strip() or first is None:
            return others
        notice = Bilingual(
            "the model's own chat template has no system prompt; it is written before the first question",
            "该模型的对话模板没有系统提示，将写在第一个问题之前",
        )
        say_once(str(notice))
        return [*others[:first], Message("user", f"{system.text}\n\n{others[first].text}"), *others[first + 1 :]]

    def _dicts(self, messages: Sequence[Message]) -> list[dict[str, object]]:
        """Messages with the keys of chat templates."""
        dicts: list[dict[str, object]] = []
        for message in messages:
            text = escape_names(self.tokenizer, message.text)
            if not message.tool:
                content = [{"type": "text", "text": text}] if self.takes_parts else text
                dicts.append({"role": "tool" if message.role == "observation" else message.role, "content": content})
                continue
            call_arguments = text if self.text_arguments else _arguments(self.tokenizer, text)
            call = {"type": "function", "function": {"name": escape_names(self.tokenizer, message.tool), "arguments": call_arguments}}
            if message.continues and self.joins_calls and dicts and dicts[-1]["role"] == "assistant":
                calls = dicts[-1].get("tool_calls", [])
                dicts[-1] = {**dicts[-1], "tool_calls": [*(calls if isinstance(calls, list) else []), call]}
            else:
                dicts.append({"role": "assistant", "content": "", "tool_calls": [call]})
        return dicts


def _as_function(tool: Mapping[str, object] | str) -> Mapping[str, object] | str:
    """A tool in OpenAI's format; a text, and what is in that format already, unchanged."""
    return tool if isinstance(tool, str) or "function" in tool else {"type": "function", "function": tool}


def escape_names(tokenizer: HFTokenizer, text: str) -> str:
    """A typed text with an ESCAPE_MARK in the names of special tokens."""
    return tokenizer.special_pattern.sub(lambda match: match[0][:1] + ESCAPE_MARK + match[0][1:], text.replace(ESCAPE_MARK, ""))


def escape_all(tokenizer: HFTokenizer, value: Any) -> Any:
    """A JSON value with an ESCAPE_MARK in the names of special tokens, wherever texts stand in it."""
    if isinstance(value, str):
        return escape_names(tokenizer, value)
    if isinstance(value, Mapping):
        return {escape_names(tokenizer, str(key)): escape_all(tokenizer, item) for key, item in value.items()}
    return [escape_all(tokenizer, item) for item in value] if isinstance(value, list | tuple) else value


def _paired(name: str, added: Mapping[str, int]) -> bool:
    """Whether a token is one of two tags around a text, such as `<think>` and `</think>`: these are part of answers."""
    other = f"<{name[2:]}" if name.startswith("</") else f"</{name[1:]}"
    return name.startswith("<") and other in added


def _arguments(tokenizer: HFTokenizer, text: str) -> object:
    """The arguments of a call, parsed if they are JSON: an escape in it may write the name of a special token."""
    try:
        return escape_all(tokenizer, json.loads(text))
    except (ValueError, RecursionError):
        return text
