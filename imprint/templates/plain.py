"""Templates for models without one of their own: labelled lines (`plain`), or the bare text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from imprint.templates.chatglm import with_system
from imprint.templates.conversation import Message, Segment
from imprint.templates.history import as_messages
from imprint.templates.pairs import split_pairs
from imprint.tokenizers import HFTokenizer

CONTEXT: Final = 64
"""Characters before an answer that it is encoded with."""


@dataclass(frozen=True)
class PlainTemplate:
    """`plain`: lines with `问：` and `答：`; `bare`: texts separated by newlines."""

    tokenizer: HFTokenizer
    """The tokenizer of its ids."""
    name: Literal["plain", "bare"]
    """Its name in a recipe."""

    @property
    def supports_tools(self) -> bool:
        """Not supported."""
        return False

    @property
    def end_id(self) -> int:
        """The first EOS id of the folder."""
        return self.tokenizer.special_tokens.eos_ids[0]

    @property
    def stop_ids(self) -> frozenset[int]:
        """All EOS ids of the folder."""
        return frozenset(self.tokenizer.special_tokens.eos_ids)

    def prompt(self, messages: Sequence[Message], source_prefix: str = "") -> tuple[Segment, ...]:
        """BOS ids, then the text. Raises UserError for tool messages."""
        query, history, system = split_pairs(messages, f"The template {self.name}")
        question_format, answer_format = ("问：{}\n答：", "{}\n") if self.name == "plain" else ("{}", "\n{}\n")
        text = "".join(question_format.replace("{}", question) + answer_format.replace("{}", answer) for question, answer in history)
        ids = self.tokenizer.encode(source_prefix + with_system(text + question_format.replace("{}", query), system))
        return (Segment(self.tokenizer.special_tokens.bos_ids, fixed=True), Segment(tuple(ids)))

    def answer(self, messages: Sequence[Message], text: str, _tool: str = "", _rest: Sequence[Message] = (), /) -> list[int]:
        """The ids of the text as it stands behind the prompt."""
        if self.name == "plain":
            return self.tokenizer.encode_text_behind("\n答：", text)
        before = as_messages(messages)[-1].text[-CONTEXT:] if messages else ""
        return self.tokenizer.encode_text_behind(before, text)

    def scored_text(self, text: str) -> str:
        """Unchanged."""
        return text

    def display_text(self, text: str, *, done: bool = True) -> str:  # noqa: ARG002
        """Trimmed."""
        return text.strip()

    def stable_prefix(self, shown: str) -> str:
        """Unchanged."""
        return shown
