"""Prompts of rounds as text, of a long conversation without encoding all of it again for each of its answers."""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

from imprint.templates.conversation import Turns

LONG_CHARACTERS: Final = 2**12
"""Characters, with ROUND_CHARACTERS for each round, from which the rounds of a conversation are encoded once."""
ROUND_CHARACTERS: Final = 20
"""About the characters that a template writes around a question and its answer."""
NEWLINE: Final = "\n"
ROUND_START: Final = "["
"""The first character of a round."""
RoundText = Callable[[int, str, str], str]
"""The text of an earlier round by index, question and answer; it begins with ROUND_START and ends with a newline."""


class LineTokenizer(Protocol):
    """A tokenizer that says where a text can be divided."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""

    def divides_after_newline(self, following: str) -> bool:
        """Whether no token reaches from a newline into the character after it, whatever else the text holds."""


class LatestConversation:
    """Tokens of the rounds of one conversation: each of its answers is a sample with all rounds before it."""

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, int, str, str], int] = {}
        self._start: tuple[str, Turns, list[int]] = ("", (), [])

    def first_ids(
        self,
        tokenizer: LineTokenizer,
        before: str,
        history: Turns,
        question: str,
        round_text: RoundText,
        limit: int,
    ) -> tuple[list[int], int]:
        """(the first `limit` ids of a prompt, number of all its ids, about that if there are more than `limit`).

        `before`: text before the first round. `question`: text of the last round.

        The ids are those of the whole prompt: a token does not depend on what follows the next place where the text can be divided.
        """
        counts = self._counts(tokenizer, before, history, round_text)
        kept = seen = 0
        while kept < len(history) and seen < limit:
            seen += counts[kept]
            kept += 1
        while seen >= limit:
            turns = history[:kept]
            if self._start[:2] != (before, turns):
                self._start = before, turns, tokenizer.encode(before + _text(turns, round_text))
            if len(ids := self._start[2]) >= limit:
                return ids[:limit], sum(counts) + _tokens(tokenizer, question)
            if kept == len(history):
                break
            kept += 1
        ids = tokenizer.encode(before + _text(history, round_text) + question)
        return ids[:limit], len(ids)

    def _counts(self, tokenizer: LineTokenizer, before: str, history: Turns, round_text: RoundText) -> Sequence[int]:
        """The number of tokens of each round; those of other conversations are forgotten."""
        known, self._tokens = self._tokens, {}
        for index, (question, answer) in enumerate(history):
            key = ("" if index else before, index, question, answer)
            if key not in known:
                text = round_text(index, question, answer)
                known[key] = _tokens(tokenizer, text) if index else len(tokenizer.encode(before + text))
            self._tokens[key] = known[key]
        return list(self._tokens.values())


def is_long(history: Turns) -> bool:
    """Whether the rounds of a conversation are encoded once: the text of short ones is encoded again for each answer."""
    return len(history) > 1 and sum(len(question) + len(answer) + ROUND_CHARACTERS for question, answer in history) > LONG_CHARACTERS


def _text(history: Turns, round_text: RoundText) -> str:
    return "".join(round_text(index, *turn) for index, turn in enumerate(history))


def _tokens(tokenizer: LineTokenizer, text: str) -> int:
    """The number of tokens of a text after a newline."""
    return len(tokenizer.encode(NEWLINE + text)) - len(tokenizer.encode(NEWLINE))
