"""What answers in a chat: a model on this machine, or a service."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

from imprint.chat.conversation import ChatRequest
from imprint.messages import Bilingual


@dataclass(frozen=True)
class AnswerSummary:
    """What is told about an answer below it."""

    tokens: int | None
    """Its tokens, where they are known."""
    notes: list[str]
    """What its reader has to know, such as turns that were left out."""


class Answerer(Protocol):
    """Answers the requests of a chat."""

    def answer(self, request: ChatRequest) -> Generator[str, None, None]:
        """The answer so far, again and again. Raises UserError. Closing the generator ends the answer."""

    def settled(self, text: str) -> str:
        """The beginning of an unfinished answer that stays as it is, whatever follows."""

    def summary(self, request: ChatRequest, text: str) -> AnswerSummary:
        """What to tell about the last answer, which has ended with this text."""


def dropped_note(turns: int) -> str:
    """That the oldest turns were left out."""
    return Bilingual(f"{turns} old turns no longer seen", f"已略去最早 {turns} 轮").line
