"""Messages to the user in English and Chinese, and the exception that carries one."""

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


class UserError(Exception):
    """An error that the user can fix; the message says where it is, what was found, what is allowed and what to do."""

    def __init__(self, message: str | Bilingual) -> None:
        super().__init__(str(message))
        self._message = message

    def prefixed(self, prefix: str) -> "UserError":
        """The same error with `prefix`, such as "train.jsonl:7: ", before the message."""
        message = self._message
        prefixed = Bilingual(prefix + message.english, message.chinese) if isinstance(message, Bilingual) else prefix + message
        return UserError(prefixed)
