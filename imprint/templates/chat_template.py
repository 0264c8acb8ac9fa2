"""The chat template of a model folder (Jinja, rendered in the sandbox of transformers): GLM-4-0414, Qwen and most chat models."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from imprint.messages import Bilingual, UserError
from imprint.templates.conversation import Message, Segment
from imprint.tokenizers import HFTokenizer, render_chat_template

GUARD = "\ufdd0"
"""Noncharacter inserted into typed special tokens while the template is rendered, so that they stay text."""
MARKER = "0answer0"


@dataclass(frozen=True)
class ChatTemplate:
    """The template of a model folder; special tokens come from the template, never from typed text."""

    tokenizer: HFTokenizer
    """The tokenizer of its ids."""
    end_id: int
    """The id after an answer in the template, else EOS."""
    answer_prefix: str
    """Text that the template puts before every answer, such as the empty thoughts of Qwen3: learned, but no part of the answer."""

    @property
    def name(self) -> str:
        """Its name in a recipe."""
        return "own"

    @property
    def supports_tools(self) -> bool:
        """Supported."""
        return True

    @property
    def stop_ids(self) -> frozenset[int]:
        """The id after an answer in the template, and all EOS ids of the folder."""
        return frozenset({self.end_id, *self.tokenizer.special_tokens.eos_ids})

    def prompt(self, messages: Sequence[Message], source_prefix: str = "") -> tuple[Segment, ...]:
        """The rendered conversation with the generation prompt; `source_prefix` is put before the last text.

        Raises UserError for a conversation that the template refuses.
        """
        special = frozenset(self.tokenizer.controls.values())
        prefixed = _with_prefix(messages, source_prefix)
        rendered = _render(self.tokenizer, prefixed, answering=True)
        texts = _text_spans(rendered.replace(GUARD, ""), prefixed)
        fixed_tokens = [
            (token, token in special or not any(first <= start and end <= last for first, last in texts))
            for token, start, end in self._with_offsets(rendered)
        ]
        return tuple(Segment(tuple(token for token, _ in run), fixed=fixed) for fixed, run in groupby(fixed_tokens, key=lambda one: one[1]))

    def answer(self, messages: Sequence[Message], text: str, tool: str = "", /) -> list[int]:
        """Ids that the template renders after the generation prompt, up to the end id."""
        prompt = _render(self.tokenizer, messages, answering=True)
        full = _render(self.tokenizer, [*messages, Message("assistant", text, tool)], answering=False)
        if not full.startswith(prompt):
            return self.tokenizer.encode(text)
        ids = [token for token, _start, _end in self._with_offsets(full[len(prompt) :])]
        return ids[: ids.index(self.end_id)] if self.end_id in ids else ids

    def scored_text(self, text: str) -> str:
        """Without `answer_prefix`."""
        return text.removeprefix(self.answer_prefix)

    def display_text(self, text: str, *, done: bool = True) -> str:
        """The same, trimmed; empty while an unfinished text may still be a part of `answer_prefix`."""
        return "" if not done and self.answer_prefix.startswith(text) else self.scored_text(text).strip()

    def stable_prefix(self, shown: str) -> str:
        """Unchanged."""
        return shown

    def _with_offsets(self, rendered: str) -> list[tuple[int, int, int]]:
        """(id, start, end) of the tokens of rendered text; typed special tokens lose their GUARD and stay text."""
        if GUARD not in rendered:
            return self.tokenizer.encode_with_offsets(rendered, special=True)
        tokens: list[tuple[int, int, int]] = []
        offset = 0
        for part in self.tokenizer.special_pattern.split(rendered):
            text, known = part.replace(GUARD, ""), self.tokenizer.controls.get(part)
            inside = self.tokenizer.encode_with_offsets(text, special=False) if known is None else [(known, 0, len(text))]
            tokens += ((token, offset + start, offset + end) for token, start, end in inside)
            offset += len(text)
        return tokens


def chat_template_of(tokenizer: HFTokenizer) -> ChatTemplate:
    """The template, with `end_id` and `answer_prefix` found by rendering an answer in the middle and at the end of a conversation.

    Raises UserError if nothing ends an answer.
    """
    question, answer = Message("user", "1"), Message("assistant", MARKER)
    after = _render(tokenizer, [question, answer, Message("user", "2")], answering=False).partition(MARKER)[2]
    match = tokenizer.special_pattern.match(after.lstrip())
    ends = [tokenizer.controls[match[1]]] if match else list(tokenizer.special_tokens.eos_ids)
    if not ends:
        raise UserError(
            Bilingual(
                "nothing ends an answer: the chat template puts no special token after it, and neither tokenizer_config.json nor "
                'config.json has "eos_token". Take the files from the official folder.',
                "对话模板和配置中都没有结束符：请使用官方目录中的文件。",
            )
        )
    prompt = _render(tokenizer, [question], answering=True)
    before = _render(tokenizer, [question, answer], answering=False).partition(MARKER)[0]
    answer_prefix = before.removeprefix(prompt) if before.startswith(prompt) else ""
    return ChatTemplate(tokenizer, ends[0], tokenizer.decode(tokenizer.encode_with_special(answer_prefix)))


def _with_prefix(messages: Sequence[Message], source_prefix: str) -> list[Message]:
    """The messages with `source_prefix` before the last text."""
    last = messages[-1]
    return [*messages[:-1], Message(last.role, source_prefix + last.text, last.tool, last.tools)]


def _text_spans(rendered: str, messages: Sequence[Message]) -> list[tuple[int, int]]:
    """(start, end) of each message's text in the rendered text; one span of everything if a text is not rendered verbatim."""
    spans, end = [], 0
    for message in messages:
        start = rendered.find(message.text.strip(), end)
        if start < 0 or message.tool or message.tools:
            return [(0, len(rendered))]
        end = start + len(message.text.strip())
        spans.append((start, end))
    return spans


def _render(tokenizer: HFTokenizer, messages: Sequence[Message], *, answering: bool) -> str:
    """The rendered messages, with a GUARD in typed special tokens."""
    tools = [tool for message in messages for tool in message.tools]
    return render_chat_template(
        tokenizer.special_tokens, [_as_dict(tokenizer, message) for message in messages], tools, answering=answering
    )


def _as_dict(tokenizer: HFTokenizer, message: Message) -> dict[str, object]:
    """A message with the keys of chat templates."""
    text = tokenizer.special_pattern.sub(lambda match: match[0][:1] + GUARD + match[0][1:], message.text.replace(GUARD, ""))
    if message.tool:
        call = {"type": "function", "function": {"name": message.tool, "arguments": _arguments(text)}}
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    return {"role": "tool" if message.role == "observation" else message.role, "content": text}


def _arguments(text: str) -> object:
    """The arguments of a call, parsed if they are JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text
