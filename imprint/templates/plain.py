"""Templates for models that bring none along: a question and an answer as plain lines, or the bare text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from imprint.templates.chatglm import with_system
from imprint.templates.conversation import Message, Segment
from imprint.templates.pairs import split_pairs
from imprint.tokenizers import HFTokenizer


@dataclass(frozen=True)
class PlainTemplate:
    """`问：...` and `答：...` on lines of their own; or nothing around a text, and line ends between those said before."""

    tokenizer: HFTokenizer
    """Whose ids it makes."""
    name: Literal["plain", "bare"]
    """What a recipe calls it."""

    @property
    def supports_tools(self) -> bool:
        """It writes none."""
        return False

    @property
    def end_id(self) -> int:
        """What ends a text, by the folder."""
        return self.tokenizer.special_tokens.eos_ids[0]

    @property
    def stop_ids(self) -> frozenset[int]:
        """All that the folder says ends a text."""
        return frozenset(self.tokenizer.special_tokens.eos_ids)

    def prompt(self, messages: Sequence[Message], source_prefix: str = "") -> tuple[Segment, ...]:
        """What the vocabulary begins a text with, then the text; UserError for a tool's message."""
        query, history, system = split_pairs(messages, f"The template {self.name}")
        asked, answered = ("问：{}\n答：", "{}\n") if self.name == "plain" else ("{}", "\n{}\n")
        text = "".join(asked.replace("{}", question) + answered.replace("{}", answer) for question, answer in history)
        ids = self.tokenizer.encode(source_prefix + with_system(text + asked.replace("{}", query), system))
        return (Segment(self.tokenizer.special_tokens.bos_ids, fixed=True), Segment(tuple(ids)))

    def answer(self, _messages: Sequence[Message], text: str, _tool: str = "", /) -> list[int]:
        """The text alone."""
        return self.tokenizer.encode(text)

    def scored_text(self, text: str) -> str:
        """All of it."""
        return text

    def display_text(self, text: str, *, done: bool = True) -> str:  # noqa: ARG002
        """Trimmed."""
        return text.strip()

    def stable_prefix(self, shown: str) -> str:
        """All of it."""
        return shown
