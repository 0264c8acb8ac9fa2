"""Length limits of prompts and answers: the recipe's, or chosen once from what the rows need."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from imprint.data.encode import EncodedRow
from imprint.data.section import DataSection, TextsSection
from imprint.messages import Bilingual

UNLIMITED: Final = 10**9
"""A limit that cuts nothing."""
SHARE: Final = 0.99
"""Share of the rows that limits chosen from them leave whole."""
MIN_LIMIT: Final = 4
"""The smallest limit that a recipe may set."""


@dataclass(frozen=True)
class LengthLimits:
    """Maximum tokens of a prompt and of an answer, special tokens included."""

    prompt: int
    """Maximum tokens of a prompt."""
    answer: int
    """Maximum tokens of an answer, including its end token."""

    def within(self, max_length: int) -> "LengthLimits":
        """The limits, lowered so that a prompt and its answer fit into `max_length` tokens; the longer of the two is lowered first."""
        if self.prompt + self.answer <= max_length:
            return self
        half = max(max_length // 2, MIN_LIMIT)
        answer = min(self.answer, max(half, max_length - self.prompt))
        return LengthLimits(min(self.prompt, max(max_length - answer, MIN_LIMIT)), answer)

    def widest(self, other: "LengthLimits") -> "LengthLimits":
        """The larger limit of each side."""
        return LengthLimits(max(self.prompt, other.prompt), max(self.answer, other.answer))

    @property
    def knobs(self) -> dict[str, int]:
        """The limits as knobs of the `data` section."""
        return {"max_source_length": self.prompt, "max_target_length": self.answer}

    def __str__(self) -> str:
        return " ".join(f"data.{name}={limit}" for name, limit in self.knobs.items())


def limits_of(section: DataSection | TextsSection) -> LengthLimits:
    """The limits of a section whose null limits have been filled in."""
    assert section.max_source_length is not None, "chosen when the rows were loaded"
    assert section.max_target_length is not None
    return LengthLimits(section.max_source_length, section.max_target_length)


def chosen_note(section: DataSection, limits: LengthLimits) -> Bilingual:
    """Says which limits were chosen, apart from one that the section gives."""
    chosen = " ".join(f"data.{name}={limit}" for name, limit in limits.knobs.items() if getattr(section, name) is None)
    return Bilingual(f"{chosen}: chosen from the rows", "长度上限按数据选定")


def with_given(section: DataSection, chosen: LengthLimits) -> LengthLimits:
    """The chosen limits, but where the section gives one, its own."""
    return LengthLimits(section.max_source_length or chosen.prompt, section.max_target_length or chosen.answer)


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
    prompts, answers = Counter[int](), Counter[int]()
    for row in rows:
        prompts[row.needed_prompt] += 1
        answers[row.needed_answer] += 1
    return LengthLimits(max(quantile(prompts, share), MIN_LIMIT), max(quantile(answers, share), MIN_LIMIT))


def quantile(counts: Counter[int], share: float) -> int:
    """The smallest length that at least this share of the counted lengths does not exceed; 0 without lengths."""
    target, seen = share * counts.total(), 0
    for length in sorted(counts):
        seen += counts[length]
        if seen >= target:
            return length
    return 0
