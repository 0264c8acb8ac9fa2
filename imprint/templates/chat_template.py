"""The chat template of a model folder (Jinja, rendered in a sandbox): GLM-4-0414, Qwen and most chat models.

Prompt and answer are rendered and encoded together, so that a row that is learned, a later turn and a prompt have the same ids.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Final

from imprint import arguments
from imprint.messages import Bilingual, UserError
from imprint.templates.conversation import Message, Segment
from imprint.templates.history import as_messages
from imprint.templates.rendering import Rendering, TurnDelimiters, escape_names
from imprint.terminal import say_once
from imprint.tokenizers import ESCAPE_MARK, THOUGHTS, HFTokenizer, rendering_within

CONTEXT: Final = 64
"""Characters of the prompt that an answer is encoded with, at most."""
MAX_SECONDS: Final = 5.0
"""What all renderings that examine a template may take together."""
OPEN_TAG: Final = re.compile(rf"<({THOUGHTS})>\s*\Z", re.IGNORECASE)
"""A tag of thoughts that a generation prompt opens, such as `<think>` or `<seed:think>`; other tags may be roles."""


@dataclass(frozen=True)
class ChatTemplate:
    """The template of a model folder; special tokens come from the template, never from typed text."""

    tokenizer: HFTokenizer
    """The tokenizer of its ids."""
    rendering: Rendering
    """How conversations are written."""
    end_id: int
    """The id after an answer in the template, else EOS."""
    answer_prefix: str = ""
    """Text that the template puts before every answer, such as the empty thoughts of Qwen3: learned, but no part of the answer."""
    opened: str = ""
    """The tag that the generation prompt opens, such as `<think>` of DeepSeek-R1: an answer without thoughts closes it first."""
    _latest: list[tuple[list[Message], str]] = field(default_factory=list, compare=False, repr=False)
    """The latest prompt and its text: `answer` follows `prompt`."""

    @property
    def name(self) -> str:
        """Its name in a recipe."""
        return "own"

    @property
    def supports_tools(self) -> bool:
        """Whether the template writes calls of tools."""
        return self.rendering.writes_calls

    @property
    def describes_tools(self) -> bool:
        """See Template: some write calls alone, such as those of DeepSeek-R1."""
        return self.rendering.writes_calls and self.rendering.writes_tools

    @property
    def stop_ids(self) -> frozenset[int]:
        """The id after an answer in the template, and all EOS ids of the folder."""
        return frozenset({self.end_id, *self.tokenizer.special_tokens.eos_ids})

    def prompt(self, messages: Sequence[Message], source_prefix: str = "") -> tuple[Segment, ...]:
        """The rendered conversation with the generation prompt; `source_prefix` is put before the last text.

        Raises UserError for a conversation that the template refuses.
        """
        special = frozenset(self.tokenizer.controls.values())
        prefixed = _with_prefix(as_messages(messages), source_prefix)
        rendered = self._prompt_text(prefixed)
        is_within = _within(_text_spans(rendered.replace(ESCAPE_MARK, ""), prefixed))
        fixed_tokens = [
            (token, token in special or not is_within(start, end))
            for token, start, end in self.tokenizer.encode_rendered_with_offsets(rendered)
        ]
        return tuple(Segment(tuple(token for token, _ in run), fixed=fixed) for fixed, run in groupby(fixed_tokens, key=lambda one: one[1]))

    def answer(self, messages: Sequence[Message], text: str, tool: str = "", rest: Sequence[Message] = (), /) -> list[int]:
        """Ids that the template renders after the generation prompt, up to the end id."""
        messages = as_messages(messages)
        prompt = self._prompt_text(messages)
        turn = [Message("assistant", arguments.text("text", text), tool), *rest]
        whole = self.rendering.render([*messages, *turn], answering=False)
        after = whole[len(prompt) :] if whole.startswith(prompt) else self._answer_after(prompt, whole, turn)
        ids = self.tokenizer.encode_after(_context(prompt), after)
        ends = [index for index, token in enumerate(ids) if token == self.end_id]
        messages_written = 1 if self.rendering.joins_calls else len(turn)
        return ids[: ends[min(messages_written, len(ends)) - 1]] if ends else ids

    def scored_text(self, text: str) -> str:
        """Without `answer_prefix`; thoughts get back the tag that the prompt opened."""
        if self.answer_prefix and text.startswith(self.answer_prefix):
            return text.removeprefix(self.answer_prefix)
        if not self.opened:
            return text
        thoughts, closing, reply = text.partition(self._closing_tag)
        return reply.lstrip() if closing and not thoughts.strip() else self.opened + text

    def display_text(self, text: str, *, done: bool = True) -> str:
        """The same, trimmed; empty while an unfinished text may still be a part of `answer_prefix`, or of thoughts without content."""
        hidden = not done and (self.answer_prefix.startswith(text) or self._closing_tag.startswith(text.lstrip()))
        return "" if hidden else self.scored_text(text).strip()

    def stable_prefix(self, shown: str) -> str:
        """Unchanged."""
        return shown

    @property
    def _closing_tag(self) -> str:
        """The tag after thoughts whose opening tag is in the prompt; empty without one."""
        return f"</{self.opened.strip()[1:]}" if self.opened else ""

    def _prompt_text(self, messages: Sequence[Message]) -> str:
        """The rendered prompt."""
        for known, rendered in self._latest[:1]:
            if known == messages:
                return rendered
        rendered = self.rendering.render(messages, answering=True)
        self._latest[:] = [(list(messages), rendered)]
        return rendered

    def _answer_after(self, prompt: str, whole: str, turn: Sequence[Message]) -> str:
        """What is learned after a prompt that is no beginning of the whole conversation. Raises UserError for a call."""
        answer, opened = turn[0], OPEN_TAG.search(prompt)
        escaped = escape_names(self.tokenizer, answer.text)
        if opened is not None:
            return _close_tag(prompt, whole, opened, escaped)
        start = next((index for index, (one, other) in enumerate(zip(prompt, whole, strict=False)) if one != other), len(prompt))
        if not prompt[start:].strip():
            return whole[start:].lstrip()
        if answer.tool or len(turn) > 1:
            raise UserError(
                Bilingual(
                    f"the model's own chat template writes the call of {answer.tool or turn[1].tool} elsewhere than after its generation "
                    "prompt, so it cannot be learned. Leave the call out, or write it as text.",
                    "该模型的对话模板无法在回答位置写出工具调用：请去掉调用，或写成普通文本。",
                )
            )
        notice = Bilingual(
            "the model's own chat template writes a prompt otherwise than the same turn of a whole conversation; answers are learned "
            f"after the prompt, which ends with {prompt[start:][-CONTEXT:]!r}",
            "该模型的对话模板中，提示与完整对话的写法不一致；回答接在提示之后学习",
        )
        say_once(str(notice))
        begin = whole.rfind(escaped)
        return " " * self.rendering.trailing_spaces + (whole[begin:] if begin >= 0 else escaped)


def chat_template_of(tokenizer: HFTokenizer) -> ChatTemplate:
    """The template, with what surrounds an answer found by rendering one in the middle and at the end of a conversation.

    Raises UserError if nothing ends an answer.
    """
    with rendering_within(MAX_SECONDS):
        return _examined(tokenizer)


def _examined(tokenizer: HFTokenizer) -> ChatTemplate:
    """The template, by rendering small conversations."""
    delimiters = Rendering.of(tokenizer).delimiters()
    tokenizer = tokenizer.with_special(delimiters.to_mark_special)
    ends = _end_ids(tokenizer, delimiters)
    if not ends:
        raise UserError(
            Bilingual(
                "nothing ends an answer: the chat template puts no special token after it, and neither tokenizer_config.json nor "
                'config.json has "eos_token". Take the files from the official folder.',
                "对话模板和配置中都没有结束符：请使用官方目录中的文件。",
            )
        )
    rendering = Rendering.of(tokenizer)
    question = [Message("user", "1")]
    opened = OPEN_TAG.search(rendering.render(question, answering=True))
    template = ChatTemplate(tokenizer, rendering, ends[0], opened="" if opened is None else opened[0])
    written = tokenizer.decode(template.answer(question, delimiters.marker))
    return replace(template, answer_prefix=written.partition(delimiters.marker)[0])


def _end_ids(tokenizer: HFTokenizer, delimiters: TurnDelimiters) -> list[int]:
    """What may end an answer, the learned id first: the token after an answer, unless it only opens the next turn; else EOS."""
    eos_ids = list(tokenizer.special_tokens.eos_ids)
    after = [tokenizer.controls[delimiters.end_name]] if delimiters.end_name else []
    return after if delimiters.ends_last or eos_ids == [] or (after and after[0] in eos_ids) else eos_ids


def _close_tag(prompt: str, whole: str, opened: re.Match[str], answer: str) -> str:
    """The answer after an open tag: its own thoughts without the opening tag, or the closing tag and the answer."""
    opening, closing = f"<{opened[1]}>", f"</{opened[1]}>"
    plain = answer.replace(ESCAPE_MARK, "")
    line = prompt.endswith("\n")
    if closing in plain:
        thoughts, _, reply = (answer if closing in answer else plain).partition(closing)
        thoughts = thoughts.lstrip().removeprefix(opening)
        return (thoughts.removeprefix("\n") if line else thoughts) + closing + reply
    before = prompt[: opened.start()]
    reply = whole[len(before) :] if whole.startswith(before) else answer
    return (f"\n{closing}\n\n" if line else closing) + reply.lstrip("\n")


def _context(prompt: str) -> str:
    """The last words of a prompt."""
    last = len(prompt) - 1
    return prompt[max(prompt.rfind("\n", 0, last), prompt.rfind(" ", 0, last), last + 1 - CONTEXT, 0) :]


def _with_prefix(messages: Sequence[Message], source_prefix: str) -> Sequence[Message]:
    """The messages with `source_prefix` before the last text."""
    return [*messages[:-1], replace(messages[-1], text=source_prefix + messages[-1].text)] if source_prefix else messages


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


def _within(spans: Sequence[tuple[int, int]]) -> Callable[[int, int], bool]:
    """Whether a stretch lies in one of these spans, which are in order; asked for every token of conversations of thousands of messages."""
    starts = [first for first, _last in spans]

    def is_within(start: int, end: int) -> bool:
        place = bisect_right(starts, start) - 1
        return place >= 0 and end <= spans[place][1]

    return is_within
