"""Templates for models without one of their own: labelled lines (`plain`), or the bare text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from imprint import arguments
from imprint.templates.chatglm import with_system
from imprint.templates.conversation import Message, Segment
from imprint.templates.history import as_messages
from imprint.templates.pairs import split_pairs
from imprint.tokenizers import HFTokenizer

CONTEXT: Final = 64
"""Characters before an answer that it is encoded with."""


@dataclass(frozen=True)
class PlainTemplate:
    """`plain`: lines with `问：` and `答：`; `bare`: lines of a question and, right after it, its answer."""

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
        """BOS ids, then the text, in which an earlier answer has the ids that are learned. Raises UserError for tool messages."""
        query, history, system = split_pairs(messages, f"The template {self.name}")
        question_format = "问：{}\n答：" if self.name == "plain" else "{}"
        questions = [question_format.replace("{}", question) for question, _answer in [*history, (query, "")]]
        ids = self.tokenizer.encode(source_prefix + with_system(questions[0], system))
        for (question, answer), following in zip(history, questions[1:], strict=True):
            ids += self._answer(question, answer)
            ids += self.tokenizer.encode_text_after((question + answer)[-CONTEXT:], f"\n{following}")
        return (Segment(self.tokenizer.special_tokens.bos_ids, fixed=True), Segment(tuple(ids)))

    def answer(self, messages: Sequence[Message], text: str, _tool: str = "", _rest: Sequence[Message] = (), /) -> list[int]:
        """The ids of the text as it stands after the prompt."""
        return self._answer(as_messages(messages)[-1].text if messages else "", arguments.text("text", text))

    def _answer(self, question: str, text: str) -> list[int]:
        """The ids of an answer, which are the same in a row that is learned and in a later turn."""
        return self.tokenizer.encode_text_after("\n答：" if self.name == "plain" else question[-CONTEXT:], text)

    def scored_text(self, text: str) -> str:
        """Unchanged."""
        return text

    def display_text(self, text: str, *, done: bool = True) -> str:  # noqa: ARG002
        """Trimmed."""
        return text.strip()

    def stable_prefix(self, shown: str) -> str:
        """Unchanged."""
        return shown
