"""One form for what is said to a person in both languages."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bilingual:
    """A message in English and in Chinese."""

    english: str
    """The message in English."""
    chinese: str
    """The same in Chinese."""

    def __str__(self) -> str:
        """Both, each on a line of its own."""
        return f"{self.english}\n{self.chinese}"

    @property
    def line(self) -> str:
        """Both on one line."""
        return f"{self.english} / {self.chinese}"
