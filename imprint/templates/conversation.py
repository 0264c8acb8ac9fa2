"""Messages of a conversation, and the template protocol that encodes them for training and inference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from imprint.tokenizers import Tokenizer

Turns = Sequence[tuple[str, str]]
"""Earlier (question, answer) turns, oldest first."""
Role = Literal["system", "user", "assistant", "observation"]


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: Role
    """Its role; an observation is the result of a tool."""
    text: str
    """Its text."""
    tool: str = ""
    """Name of the tool that it calls, with the text as arguments; empty for none."""
    tools: tuple[Mapping[str, object] | str, ...] = ()
    """Tools of a system prompt, each described as a JSON object, or as a text in data of ChatGLM3."""
    continues: bool = False
    """Whether it belongs to the turn of the message before: a call after words or after another call."""


@dataclass(frozen=True)
class Segment:
    """A part of a prompt."""

    ids: tuple[int, ...]
    """Ids."""
    fixed: bool = False
    """Whether it is never truncated, such as special tokens and role lines."""


class Template(Protocol):
    """How one family encodes a conversation; special ids come from the template and never from a text."""

    @property
    def name(self) -> str:
        """Its name in a recipe."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of its ids."""

    @property
    def supports_tools(self) -> bool:
        """Whether it supports tools, calls and results."""

    @property
    def describes_tools(self) -> bool:
        """Whether a prompt has the descriptions of tools."""

    @property
    def end_id(self) -> int:
        """The last id of a training row."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """The ids that end generation."""

    def prompt(self, messages: Sequence[Message], source_prefix: str = "") -> tuple[Segment, ...]:
        """The prompt of these messages; `source_prefix` is put before the text.

        Raises UserError for messages that the family does not support, such as those of tools.
        """

    def answer(self, messages: Sequence[Message], text: str, tool: str = "", rest: Sequence[Message] = (), /) -> list[int]:
        """Target ids of the answer to these messages, without the end id; with `tool`, of a call with `text` as arguments.

        They are those that stand after the prompt if both are encoded together. `rest`: further messages of the same turn.
        """

    def scored_text(self, text: str) -> str:
        """A decoded answer as it is scored: without what the template adds."""

    def display_text(self, text: str, *, done: bool = True) -> str:
        """A decoded answer as it is displayed; unless `done`, without parts that further tokens may remove."""

    def stable_prefix(self, shown: str) -> str:
        """The beginning of an unfinished displayed answer that no further token changes."""


def make_messages(query: str, history: Turns | None = None, system: str | None = None) -> list[Message]:
    """The messages of a question with its history and system prompt."""
    system_messages = [Message("system", system)] if system else []
    turns = [message for question, answer in history or () for message in (Message("user", question), Message("assistant", answer))]
    return [*system_messages, *turns, Message("user", query)]


def split_rounds(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """(system prompts, rounds): each round is a user message and all messages up to the next one."""
    system_messages = list(messages[: sum(message.role == "system" for message in messages[:1])])
    rounds: list[list[Message]] = []
    for message in messages[len(system_messages) :]:
        if message.role == "user" or not rounds:
            rounds.append([])
        rounds[-1].append(message)
    return system_messages, rounds
