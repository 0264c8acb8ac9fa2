"""The data of a run's report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from imprint.events import Event
from imprint.forgetting.fill_recall import FillRecall
from imprint.forgetting.result import Forgetting
from imprint.messages import Bilingual
from imprint.report.next_steps import NextStep
from imprint.report.run_scores import EvaluationScores
from imprint.report.starts import RunStart

ExampleKind = Literal["held-out", "learned", "watched"]
"""Held-out rows, rows that were trained on, or prompts that were watched during the run."""


@dataclass(frozen=True)
class Example:
    """A row of the run's own data before and after."""

    prompt: str
    """The prompt."""
    label: str
    """The reference answer; empty if there is none."""
    base: str
    """The base's answer."""
    tuned: str
    """The tuned model's answer."""


@dataclass(frozen=True)
class RunReport:
    """The data of a run's report."""

    title: str
    """The name of the run."""
    base_name: str
    """The name of the base."""
    method: str
    """How it was tuned: prefix, lora, full."""
    verdict: tuple[Bilingual, ...]
    """The verdict at its end, and what to try next."""
    events: Sequence[Event]
    """Its log."""
    examples: tuple[Example, ...]
    """Rows of its own data."""
    example_kind: ExampleKind
    """Where the examples come from."""
    fill_texts: tuple[str, ...]
    """The texts of data.fill; an answer with those of its label is correct."""
    forgetting: Forgetting | None
    """The measured forgetting; None if it was not measured."""
    recipe: str
    """The recipe with every knob."""
    mixed: bool = False
    """Whether general rows were mixed in."""
    scores: tuple[EvaluationScores, ...] = ()
    """What `imprint evaluate` and `imprint compare` measured."""
    starts: tuple[RunStart, ...] = ()
    """When, where and how it was started."""
    next_steps: tuple[NextStep, ...] = ()
    """What to do with it."""
    path: str = "RUN"
    """Its folder, as it is typed in commands."""
    logged: str = ""
    """When something was last logged, local time."""

    @property
    def filled(self) -> FillRecall | None:
        """How many of the examples are answered with the texts of data.fill; None if their labels have none."""
        return FillRecall.count([(row.label, row.base, row.tuned) for row in self.examples], self.fill_texts)
