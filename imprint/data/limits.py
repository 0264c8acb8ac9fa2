"""Length limits of prompts and answers: the recipe's, or chosen once from what the rows need."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from imprint.data.encode import EncodedRow
from imprint.data.section import DataSection, TextsSection

UNLIMITED: Final = 10**9
"""A limit that cuts nothing."""
SHARE: Final = 0.99
"""Share of the rows that limits chosen from them leave whole."""
MIN_LIMIT: Final = 4
"""The smallest limit that a recipe may set."""


@dataclass(frozen=True)
class LengthLimits:
    """Maximum tokens of a prompt and of an answer, special tokens included."""

    source: int
    """Maximum tokens of a prompt."""
    target: int
    """Maximum tokens of an answer, including its end token."""

    def within(self, max_length: int) -> "LengthLimits":
        """The limits, lowered so that a prompt and its answer fit into `max_length` tokens; the longer of the two is lowered first."""
        if self.source + self.target <= max_length:
            return self
        half = max(max_length // 2, MIN_LIMIT)
        target = min(self.target, max(half, max_length - self.source))
        return LengthLimits(min(self.source, max(max_length - target, MIN_LIMIT)), target)

    def widest(self, other: "LengthLimits") -> "LengthLimits":
        """The larger limit of each side."""
        return LengthLimits(max(self.source, other.source), max(self.target, other.target))

    @property
    def knobs(self) -> dict[str, int]:
        """The limits as knobs of the `data` section."""
        return {"max_source_length": self.source, "max_target_length": self.target}

    def __str__(self) -> str:
        return " ".join(f"data.{name}={limit}" for name, limit in self.knobs.items())


def limits_of(section: DataSection | TextsSection) -> LengthLimits:
    """The limits of a section whose null limits have been filled in."""
    assert section.max_source_length is not None, "chosen when the rows were loaded"
    assert section.max_target_length is not None
    return LengthLimits(section.max_source_length, section.max_target_length)


def with_given(section: DataSection, chosen: LengthLimits) -> LengthLimits:
    """The chosen limits, but where the section gives one, its own."""
    return LengthLimits(section.max_source_length or chosen.source, section.max_target_length or chosen.target)


def choose_limits(
    section: DataSection, groups: Iterable[Sequence[EncodedRow]], max_length: int, general: Sequence[EncodedRow] = ()
) -> LengthLimits:
    """The section's limits; where it gives none, the one that leaves 99 of 100 rows of each group whole, within `max_length` tokens.

    The groups are rows of different sources: a small one is not cut because a large one is short. All `general` rows stay whole, because
    those that do not are left out.
    """
    needed = needed_limits(general)
    for rows in groups:
        needed = needed.widest(needed_limits(rows, SHARE))
    return with_given(section, with_given(section, needed).within(max_length))


def needed_limits(rows: Iterable[EncodedRow], share: float = 1.0) -> LengthLimits:
    """The smallest limits that cut neither the prompt nor the answer of at least this share of the rows."""
    sources, targets = Counter[int](), Counter[int]()
    for row in rows:
        sources[row.needed_source] += 1
        targets[row.needed_target] += 1
    return LengthLimits(max(quantile(sources, share), MIN_LIMIT), max(quantile(targets, share), MIN_LIMIT))


def quantile(counts: Counter[int], share: float) -> int:
    """The smallest length that at least this share of the counted lengths does not exceed; 0 without lengths."""
    target, seen = share * counts.total(), 0
    for length in sorted(counts):
        seen += counts[length]
        if seen >= target:
            return length
    return 0
