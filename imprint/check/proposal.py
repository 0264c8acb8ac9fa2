"""Which starter of `imprint init` fits the rows of a check."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from imprint.data.sample import Sample
from imprint.data.shapes import RowShape

MAX_LABELS: Final = 30
"""Maximum number of distinct answers that are taken for labels."""
MAX_LABEL_CHARACTERS: Final = 30
"""Maximum characters of such an answer."""
ROWS_PER_LABEL: Final = 3
"""How often a label occurs on average, at least."""
QUESTION_COLUMNS: Final = frozenset({"question", "q", "query", "human", "user", "问题", "提问"})
"""Columns, in lower case, whose texts are questions to someone who answers."""


@dataclass(frozen=True)
class Proposal:
    """A starter, and the knobs of its recipe that depend on the rows."""

    starter: str
    """Name of the starter."""
    mixes_general: bool = False
    """Whether its recipe mixes in general rows of the toy."""
    has_own_dev: bool = False
    """Whether its recipe names held-out sample rows, which are not those of the user."""
    labels: tuple[str, ...] = ()
    """The labels of a classification."""


class RowKinds:
    """Counts what the rows are like, in bounded memory."""

    def __init__(self) -> None:
        self._talks = False
        self._labels: Counter[str] | None = Counter()
        """Answer -> count; None if there are too many of them, or too long ones."""

    def add(self, samples: Sequence[Sample], shape: RowShape) -> None:
        """Count the samples of a row."""
        asks = shape.kind in ("conversation", "alpaca") or shape.prompt.lower() in QUESTION_COLUMNS
        self._talks = self._talks or asks or any(sample.history or sample.system or sample.context for sample in samples)
        for sample in samples:
            if self._labels is None:
                return
            self._labels[sample.answer] += 1
            if len(self._labels) > MAX_LABELS or not _may_be_label(sample.answer):
                self._labels = None

    def proposal(self) -> Proposal:
        """The starter that fits: few short answers are labels, conversations and questions are chat, other pairs are ad copy."""
        labels = self._labels or Counter()
        if 2 <= len(labels) <= labels.total() / ROWS_PER_LABEL:
            return Proposal("classify", has_own_dev=True, labels=tuple(sorted(labels)))
        return Proposal("chat", mixes_general=True) if self._talks else Proposal("adgen", has_own_dev=True)


def _may_be_label(answer: str) -> bool:
    return len(answer) <= MAX_LABEL_CHARACTERS and answer == answer.strip() and answer.isprintable()
