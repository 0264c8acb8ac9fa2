"""The template of ChatGLM-6B: question and history as one text.

Source: `chat` in modeling_chatglm.py and the preprocessing of ptuning/main.py, THUDM/ChatGLM-6B.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from imprint.templates.conversation import Message, Segment, Turns
from imprint.templates.pairs import split_pairs
from imprint.templates.rounds import LatestConversation
from imprint.tokenizers import ChatGLMTokenizer

FULL_WIDTH: Final = MappingProxyType({",": "，", "!": "！", ":": "：", ";": "；", "?": "？"})
BESIDE_CHINESE: Final = re.compile(r"[,!:;?](?:(?<=[\u4e00-\u9fff].)|(?=[\u4e00-\u9fff]))")
"""The punctuation that becomes full-width; it is looked for first, because an answer is polished again for each of its tokens."""
DATE_PLACEHOLDER: Final = "[[训练时间]]"
"""Replaced by `process_response`; may be split over several tokens."""


@dataclass(frozen=True)
class ChatGLMTemplate:
    """Rounds as text, followed by `[gMASK] <sop>`."""

    tokenizer: ChatGLMTokenizer
    """The tokenizer of its ids."""
    latest: LatestConversation = field(default_factory=LatestConversation, compare=False, repr=False)
    """Tokens of the rounds of the latest conversation."""

    @property
    def name(self) -> str:
        """Its name in a recipe."""
        return "chatglm"

    @property
    def supports_tools(self) -> bool:
        """Not supported."""
        return False

    @property
    def describes_tools(self) -> bool:
        """See Template."""
        return False

    @property
    def end_id(self) -> int:
        """`<eop>`."""
        return self.tokenizer.control.eop

    @property
    def stop_ids(self) -> frozenset[int]:
        """`<eop>` alone."""
        return frozenset({self.end_id})

    def prompt(self, messages: Sequence[Message], source_prefix: str = "") -> tuple[Segment, ...]:
        """The text, then `[gMASK] <sop>`. Raises UserError for tool messages."""
        query, history, system = split_pairs(messages, "ChatGLM-6B")
        special = self.tokenizer.control
        text = self.tokenizer.encode(source_prefix + format_chatglm_prompt(query, history, system))
        return (Segment(tuple(text)), Segment((special.gmask, special.sop), fixed=True))

    def answer(self, _messages: Sequence[Message], text: str, _tool: str = "", _rest: Sequence[Message] = (), /) -> list[int]:
        """The ids of the text."""
        return self.tokenizer.encode(text)

    def scored_text(self, text: str) -> str:
        """Unchanged."""
        return text

    def display_text(self, text: str, *, done: bool = True) -> str:  # noqa: ARG002
        """The text after `process_response`, also if unfinished."""
        return process_response(text)

    def stable_prefix(self, shown: str) -> str:
        """Without an ending that `process_response` may still change: punctuation or an incomplete date."""
        text = without_partial_date(shown)
        return text[:-1] if text == shown and text.endswith(("[", *FULL_WIDTH)) else text


def format_chatglm_prompt(query: str, history: Turns | None, system: str | None = None) -> str:
    """The prompt of a chat: the bare query without history, else rounds; a system prompt is a paragraph before it."""
    return with_system(format_rounds(query, history) if history else query, system)


def with_system(prompt: str, system: str | None) -> str:
    """The prompt after a system prompt, for which ChatGLM-6B has no role."""
    return f"{system}\n\n{prompt}" if system else prompt


def format_rounds(query: str, history: Turns) -> str:
    """The prompt in numbered rounds, also with an empty history (`[Round 0]`), as the original trains rows with a history column."""
    return "".join(format_round(number, *turn) for number, turn in enumerate(history)) + format_question(len(history), query)


def format_round(number: int, question: str, answer: str) -> str:
    """An earlier round, counted from 0."""
    return f"{format_question(number, question)}{answer}\n"


def process_response(answer: str) -> str:
    """An answer after ChatGLM-6B's `process_response`: trimmed, date filled in, full-width punctuation next to Chinese."""
    return BESIDE_CHINESE.sub(lambda match: FULL_WIDTH[match[0]], fill_date(answer))


def fill_date(answer: str) -> str:
    """An answer, trimmed and with its date filled in, as in every ChatGLM."""
    return answer.strip().replace(DATE_PLACEHOLDER, "2023年")


def without_partial_date(shown: str) -> str:
    """Without an incomplete DATE_PLACEHOLDER at the end."""
    start = shown.rfind("[[")
    return shown[:start] if start >= 0 and DATE_PLACEHOLDER.startswith(shown[start:]) else shown


def format_question(number: int, question: str) -> str:
    """The last round, counted from 0, for the model to answer."""
    return f"[Round {number}]\n问：{question}\n答："
