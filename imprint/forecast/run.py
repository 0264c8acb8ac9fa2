"""The forecast of a run: its estimates, its steps, its disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from imprint.forecast.cards import Card
from imprint.forecast.estimate import Estimate, Term
from imprint.messages import Bilingual

EVALUATION_SHARE: Final = 0.35
"""Time of a row of the evaluation loss, which has a forward pass only, over that of a row of training."""


@dataclass(frozen=True)
class RunForecast:
    """What a run will take."""

    name: str
    """The recipe."""
    base: str
    """The base."""
    parameters: int
    """Its parameters."""
    data: Bilingual
    """The rows, in words."""
    estimates: Sequence[Estimate]
    """That of the recipe, then those of other choices."""
    rows_per_step: int
    """Rows of an optimizer step, over all processes."""
    steps: int
    """Optimizer steps."""
    evaluation_rows: int
    """Rows whose evaluation loss is computed, over all evaluations."""
    disk: Sequence[Term]
    """What is written."""
    cache: Term
    """The cache of the watched answers."""

    @property
    def own(self) -> Estimate:
        """The estimate of the recipe as it is."""
        return self.estimates[0]

    def samples_per_second(self, estimate: Estimate, card: Card) -> float:
        """Rows that training learns from a second."""
        return self.rows_per_step / estimate.step_seconds(card)

    def seconds(self, estimate: Estimate, card: Card) -> float:
        """Seconds of all steps and evaluations."""
        step = estimate.step_seconds(card)
        return step * (self.steps + EVALUATION_SHARE * self.evaluation_rows / self.rows_per_step)
