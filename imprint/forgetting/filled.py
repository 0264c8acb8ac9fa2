"""Whether a model says what `data.fill` put into its rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from imprint.forgetting.probes import holds


@dataclass(frozen=True)
class Filled:
    """How many answers hold the texts of `data.fill` that their references hold."""

    rows: int
    """Rows whose references hold any."""
    before: int
    """How many answers of the base hold all that their reference holds."""
    after: int
    """The same of the tuned model."""

    @classmethod
    def of(cls, rows: Sequence[tuple[str, str, str]], texts: Sequence[str]) -> "Filled | None":
        """Count over (reference, base's answer, tuned answer); None where no reference holds any of the texts."""
        asked = [row for row in rows if any(holds(row[0], text) for text in texts)]
        if not asked:
            return None
        before, after = (sum(says_it(row[0], row[place], texts) for row in asked) for place in (1, 2))
        return cls(len(asked), before, after)

    def sentence(self) -> str:
        """For a person, in two languages."""
        return (
            f"new texts: {self.after} of {self.rows} rows are answered with what data.fill says, before {self.before}\n"
            f"新内容：{self.rows} 行中有 {self.after} 行的回答含有 data.fill 的内容，微调前 {self.before} 行"
        )


def says_it(reference: str, answer: str, texts: Sequence[str]) -> bool:
    """Whether an answer holds every text that its reference holds."""
    return all(holds(answer, text) for text in texts if holds(reference, text))
