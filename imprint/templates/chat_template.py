"""The chat template that a folder brings along: Jinja, rendered in the sandbox of transformers; GLM-4-0414, Qwen and most chat models."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from imprint.errors import UserError
from imprint.templates.conversation import Message, Segment
from imprint.tokenizers import HFTokenizer, render_chat_template

GUARD = "\ufdd0"
"""Put into control tokens that a person typed, so that they are none while the template is rendered; no text holds this noncharacter."""
MARKER = "0answer0"


@dataclass(frozen=True)
class ChatTemplate:
    """What the folder's template renders; control tokens come from the template, never from what somebody typed."""

    tokenizer: HFTokenizer
    """Whose ids it makes."""
    end_id: int
    """What follows an answer in the template, or ends a text."""
    answer_prefix: str
    """What the template itself puts before an answer, such as the empty thoughts of Qwen3: learned, but no part of what is said."""

    @property
    def name(self) -> str:
        """What a recipe calls it."""
        return "own"

    @property
    def supports_tools(self) -> bool:
        """It writes them."""
        return True

    @property
    def stop_ids(self) -> frozenset[int]:
        """What follows an answer in the template, and all that the folder says ends a text."""
        return frozenset({self.end_id, *self.tokenizer.special_tokens.eos_ids})

    def prompt(self, messages: Sequence[Message], source_prefix: str = "") -> tuple[Segment, ...]:
        """The rendered conversation with the template's generation prompt; `before` stands in front of the last text.

        Raises UserError for a conversation that the template refuses.
        """
        control = frozenset(self.tokenizer.special_ids.values())
        prefixed = _with_prefix(messages, source_prefix)
        rendered = _render(self.tokenizer, prefixed, answering=True)
        texts = _text_spans(rendered.replace(GUARD, ""), prefixed)
        placed = [
            (token, token in control or not any(first <= start and end <= last for first, last in texts))
            for token, start, end in self._with_offsets(rendered)
        ]
        return tuple(Segment(tuple(token for token, _ in run), fixed=fixed) for fixed, run in groupby(placed, key=lambda one: one[1]))

    def answer(self, messages: Sequence[Message], text: str, tool: str = "", /) -> list[int]:
        """What the template renders behind the generation prompt, up to what ends an answer."""
        asked = _render(self.tokenizer, messages, answering=True)
        whole = _render(self.tokenizer, [*messages, Message("assistant", text, tool)], answering=False)
        if not whole.startswith(asked):
            return self.tokenizer.encode(text)
        ids = [token for token, _start, _end in self._with_offsets(whole[len(asked) :])]
        return ids[: ids.index(self.end_id)] if self.end_id in ids else ids

    def scored_text(self, text: str) -> str:
        """Without what the template puts before every answer."""
        return text.removeprefix(self.answer_prefix)

    def display_text(self, text: str, *, done: bool = True) -> str:
        """The same, trimmed; as long as it may still become what stands before every answer, it is not known to be one."""
        return "" if not done and self.answer_prefix.startswith(text) else self.scored_text(text).strip()

    def stable_prefix(self, shown: str) -> str:
        """All of it."""
        return shown

    def _with_offsets(self, rendered: str) -> list[tuple[int, int, int]]:
        """Ids of rendered text and their places; what was typed as a control token and broken is whole again, and text."""
        if GUARD not in rendered:
            return self.tokenizer.encode_with_offsets(rendered, marked=True)
        found: list[tuple[int, int, int]] = []
        at = 0
        for part in self.tokenizer.special_pattern.split(rendered):
            text, known = part.replace(GUARD, ""), self.tokenizer.special_ids.get(part)
            inside = self.tokenizer.encode_with_offsets(text, marked=False) if known is None else [(known, 0, len(text))]
            found += ((token, at + start, at + end) for token, start, end in inside)
            at += len(text)
        return found


def chat_template_of(tokenizer: HFTokenizer) -> ChatTemplate:
    """The template, with what stands around an answer found by rendering one in the middle and one at the end of a conversation.

    Raises UserError where nothing ends an answer.
    """
    asked, answered = Message("user", "1"), Message("assistant", MARKER)
    behind = _render(tokenizer, [asked, answered, Message("user", "2")], answering=False).partition(MARKER)[2]
    found = tokenizer.special_pattern.match(behind.lstrip())
    ends = [tokenizer.special_ids[found[1]]] if found else list(tokenizer.special_tokens.eos_ids)
    if not ends:
        raise UserError(
            "nothing ends an answer: the chat template puts no control token behind it, and neither tokenizer_config.json nor "
            'config.json has "eos_token". Take the files from the official folder.'
        )
    prompt = _render(tokenizer, [asked], answering=True)
    whole = _render(tokenizer, [asked, answered], answering=False).partition(MARKER)[0]
    lead = whole.removeprefix(prompt) if whole.startswith(prompt) else ""
    return ChatTemplate(tokenizer, ends[0], tokenizer.decode(tokenizer.encode_with_special(lead)))


def _with_prefix(messages: Sequence[Message], source_prefix: str) -> list[Message]:
    """The messages with `before` in front of the last text."""
    last = messages[-1]
    return [*messages[:-1], Message(last.role, source_prefix + last.text, last.tool, last.tools)]


def _text_spans(rendered: str, messages: Sequence[Message]) -> list[tuple[int, int]]:
    """Where the texts of the messages stand, and all around them frames them; everything where one is not rendered as it is."""
    found, end = [], 0
    for message in messages:
        start = rendered.find(message.text.strip(), end)
        if start < 0 or message.tool or message.tools:
            return [(0, len(rendered))]
        end = start + len(message.text.strip())
        found.append((start, end))
    return found


def _render(tokenizer: HFTokenizer, messages: Sequence[Message], *, answering: bool) -> str:
    """The rendered messages, in which a control token that was typed is broken."""
    tools = [tool for message in messages for tool in message.tools]
    return render_chat_template(
        tokenizer.special_tokens, [_as_dict(tokenizer, message) for message in messages], tools, answering=answering
    )


def _as_dict(tokenizer: HFTokenizer, message: Message) -> dict[str, object]:
    """A message under the names that chat templates know."""
    text = tokenizer.special_pattern.sub(lambda found: found[0][:1] + GUARD + found[0][1:], message.text.replace(GUARD, ""))
    if message.tool:
        call = {"type": "function", "function": {"name": message.tool, "arguments": _arguments(text)}}
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    return {"role": "tool" if message.role == "observation" else message.role, "content": text}


def _arguments(text: str) -> object:
    """The arguments of a call, as an object where they are written as one."""
    try:
        return json.loads(text)
    except ValueError:
        return text
