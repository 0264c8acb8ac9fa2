"""A conversation, and what a template makes of it: ids, some of which are never cut. One renderer for training and for talking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from imprint.tokenizers import Tokenizer

Turns = Sequence[tuple[str, str]]
"""Earlier (question, answer) turns, oldest first."""
Role = Literal["system", "user", "assistant", "observation"]


@dataclass(frozen=True)
class Message:
    """What one of them says."""

    role: Role
    """Who says it; an observation is what a tool gave back."""
    text: str
    """What is said."""
    tool: str = ""
    """The tool that an assistant calls with it."""
    tools: tuple[Mapping[str, object], ...] = ()
    """The tools that a system text offers, each described as a JSON object."""


@dataclass(frozen=True)
class Segment:
    """A stretch of a prompt, which is read and not learned."""

    ids: tuple[int, ...]
    """Its ids."""
    fixed: bool = False
    """Whether it frames what is said, and is never cut."""


class Template(Protocol):
    """How one family writes a conversation; ids that steer come from here and never from a text."""

    @property
    def name(self) -> str:
        """What a recipe calls it."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Whose ids it makes."""

    @property
    def supports_tools(self) -> bool:
        """Whether it can write tools that are offered, called and answered."""

    @property
    def end_id(self) -> int:
        """The id that a training row ends with."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end an answer."""

    def prompt(self, messages: Sequence[Message], source_prefix: str = "") -> tuple[Segment, ...]:
        """What the model shall go on from; `before` is put in front, as a source prefix.

        Raises UserError for a message that the family cannot write, such as a tool's.
        """

    def answer(self, messages: Sequence[Message], text: str, tool: str = "", /) -> list[int]:
        """What the model shall write after these messages, without the end; `tool` is the one it calls with it."""

    def scored_text(self, text: str) -> str:
        """A decoded answer as it is measured: all that the model wrote, without what frames it."""

    def display_text(self, text: str, *, done: bool = True) -> str:
        """A decoded answer as a person reads it; while it is not `done`, what further tokens may take back is left out."""

    def stable_prefix(self, shown: str) -> str:
        """The beginning of an unfinished shown answer that no further token changes."""


def make_messages(query: str, history: Turns | None = None, system: str | None = None) -> list[Message]:
    """The messages of a question with what was said before it."""
    system_messages = [Message("system", system)] if system else []
    turns = [message for question, answer in history or () for message in (Message("user", question), Message("assistant", answer))]
    return [*system_messages, *turns, Message("user", query)]


def split_rounds(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """What the system says first, and the rounds after it: each begins with a user's message and has all that follows it."""
    system_messages = list(messages[: sum(message.role == "system" for message in messages[:1])])
    rounds: list[list[Message]] = []
    for message in messages[len(system_messages) :]:
        if message.role == "user" or not rounds:
            rounds.append([])
        rounds[-1].append(message)
    return system_messages, rounds
