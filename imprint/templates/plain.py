"""Templates for models without one of their own: labelled lines (`plain`), or the bare text."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, Literal

from imprint import arguments
from imprint.templates.chatglm import with_system
from imprint.templates.conversation import Message, Segment
from imprint.templates.pairs import split_pairs
from imprint.tokenizers import HFTokenizer, refuse_more_tokens

CONTEXT: Final = 16
"""Characters of the turn before a question that it is encoded with."""


@dataclass(frozen=True)
class PlainTemplate:
    """`plain`: lines with `问：` and `答：`; `bare`: lines of a question and, right after it, its answer."""

    tokenizer: HFTokenizer
    """The tokenizer of its ids."""
    name: Literal["plain", "bare"]
    """Its name in a recipe."""
    _latest: list[tuple[Sequence[Message], list[int]]] = field(default_factory=list, compare=False, repr=False)
    """The messages before the latest answer and their ids: a training row is the prompt of the same messages and the answer."""

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
        """The first EOS id of the folder."""
        return self.tokenizer.special_tokens.eos_ids[0]

    @property
    def stop_ids(self) -> frozenset[int]:
        """All EOS ids of the folder."""
        return frozenset(self.tokenizer.special_tokens.eos_ids)

    def prompt(self, messages: Sequence[Message], source_prefix: str = "") -> tuple[Segment, ...]:
        """BOS ids, then the text, in which an earlier answer has the ids that are learned. Raises UserError for tool messages."""
        known = next((ids for before, ids in self._latest[:1] if before == messages and not source_prefix), None)
        ids = self._encode(messages, source_prefix)[0] if known is None else known
        return (Segment(self.tokenizer.special_tokens.bos_ids, fixed=True), Segment(tuple(ids)))

    def answer(self, messages: Sequence[Message], text: str, _tool: str = "", _rest: Sequence[Message] = (), /) -> list[int]:
        """The ids of the text as it stands after the prompt, which is encoded with it."""
        if not messages:
            return self.tokenizer.encode(arguments.text("text", text))
        prompt, answer = self._encode(messages, "", arguments.text("text", text))
        self._latest[:] = [(list(messages), prompt)]
        return answer

    def _encode(self, messages: Sequence[Message], source_prefix: str, *answer: str) -> tuple[list[int], list[int]]:
        """(ids of the prompt, ids of the answer, if there is one); an earlier answer has the ids that were learned."""
        query, history, system = split_pairs(messages, f"The template {self.name}")
        question_format = "问：{}\n答：" if self.name == "plain" else "{}"
        parts: list[list[int]] = []
        before: list[str] = []
        count = 0
        for question, *reply in (*history, (query, *answer)):
            text = question_format.replace("{}", question)
            text = f"\n{text}" if parts else source_prefix + with_system(text, system)
            added = self.tokenizer.encode_parts(*before, text, *reply)[len(before) :]
            parts += added
            refuse_more_tokens(count := count + sum(map(len, added)))
            before = ["".join((text, *reply))[-CONTEXT:]]
        answered = parts.pop() if answer else []
        return list(chain.from_iterable(parts)), answered

    def scored_text(self, text: str) -> str:
        """Unchanged."""
        return text

    def display_text(self, text: str, *, done: bool = True) -> str:  # noqa: ARG002
        """Trimmed."""
        return text.strip()

    def stable_prefix(self, shown: str) -> str:
        """Unchanged."""
        return shown
