"""The one form of a message in both languages."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bilingual:
    """A message in English and in Chinese."""

    english: str
    """The message in English."""
    chinese: str
    """The same in Chinese."""

    def __str__(self) -> str:
        """Both, each on its own line."""
        return f"{self.english}\n{self.chinese}"

    @property
    def line(self) -> str:
        """Both on one line."""
        return f"{self.english} / {self.chinese}"


def join_lines(messages: Sequence[Bilingual]) -> Bilingual:
    """One message with a line for each of several."""
    return Bilingual("\n".join(message.english for message in messages), "\n".join(message.chinese for message in messages))
