"""Whether a model's answers contain the texts that `data.fill` put into its rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from imprint.forgetting.probes import contains
from imprint.messages import Bilingual


@dataclass(frozen=True)
class FillRecall:
    """How many answers contain the texts of `data.fill` that their references contain."""

    rows: int
    """Rows whose references contain any."""
    before: int
    """How many answers of the base contain all of them."""
    after: int
    """The same for the tuned model."""

    @classmethod
    def count(cls, rows: Sequence[tuple[str, str, str]], texts: Sequence[str]) -> "FillRecall | None":
        """Count over (reference, base's answer, tuned answer) rows; None if no reference contains any of the texts."""
        relevant = [row for row in rows if any(contains(row[0], text) for text in texts)]
        if not relevant:
            return None
        before, after = (sum(recalls_fill(row[0], row[answer], texts) for row in relevant) for answer in (1, 2))
        return cls(len(relevant), before, after)

    def message(self) -> Bilingual:
        """The counts as a message."""
        return Bilingual(
            f"new texts: {self.after} of {self.rows} rows are answered with what data.fill says, before {self.before}",
            f"新内容：{self.rows} 行中有 {self.after} 行的回答含有 data.fill 的内容，微调前 {self.before} 行",
        )


def recalls_fill(reference: str, answer: str, texts: Sequence[str]) -> bool:
    """Whether an answer contains every text that its reference contains."""
    return all(contains(answer, text) for text in texts if contains(reference, text))
