"""Labels against labels: accuracy, macro-F1, the table of classes and the confusion matrix.

Legend: N rows, L labels; a confusion matrix is (L, L + 1), a line for each right label, a column for each label said, the last for answers
that are no label.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from imprint.errors import UserError
from imprint.metrics.tally import Counts, Tally, mean_tally


@dataclass(frozen=True)
class ClassScore:
    """How well one label is told from the others; shares are 0-100."""

    label: str
    """The label."""
    precision: float
    """Of the answers that say it, how many are right; 0 where none does."""
    recall: float
    """Of the rows that should say it, how many do; 0 where there is none."""
    f1: float
    """Their harmonic mean."""
    rows: int
    """How many rows should say it."""


@dataclass(frozen=True)
class Classified:
    """Predictions scored as labels."""

    accuracy: Tally
    """Share of right answers, 0-100."""
    macro_f1: Tally
    """Mean of the labels' F1, 0-100; a label that is neither in the data nor in the answers counts for nothing."""
    right: list[bool]
    """Which rows are right."""
    classes: list[ClassScore]
    """One for each label, in the order given."""
    confusion: list[list[int]]
    """(L, L + 1) how often each label was said for each."""


def classified(predictions: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> Classified:
    """Score predictions that should each be a label; blanks at their ends aside, whatever is no label is wrong.

    Raises UserError for references that are no label.
    """
    from scipy.sparse import csr_array

    places = {label: place for place, label in enumerate(labels)}
    wanted = [reference.strip() for reference in references]
    if strange := sorted({reference for reference in wanted if reference not in places}):
        raise UserError(
            f'the references hold {len(strange)} texts that are no label, as "{strange[0]}"; the labels are {", ".join(labels)}. '
            "Name every label of the data in task.labels."
        )
    said = [places.get(prediction.strip(), len(labels)) for prediction in predictions]
    cells = np.array([places[right] * (len(labels) + 1) + guess for right, guess in zip(wanted, said, strict=True)], dtype=np.int64)
    size = (len(cells), len(labels) * (len(labels) + 1))  # of ten thousand rows with a hundred labels a gigabyte, but for the zeros
    counts = csr_array((np.ones(len(cells)), (np.arange(len(cells)), cells)), shape=size)
    right = [places[reference] == guess for reference, guess in zip(wanted, said, strict=True)]
    confusion = counts.sum(0).reshape(len(labels), len(labels) + 1)
    return Classified(
        accuracy=mean_tally(100.0 * np.array(right)),
        macro_f1=Tally(counts, lambda sums: _macro_f1(sums.reshape(len(labels), len(labels) + 1))),
        right=right,
        classes=_classes(confusion, labels),
        confusion=confusion.astype(int).tolist(),
    )


def _shares(confusion: Counts) -> tuple[Counts, Counts, Counts]:
    """Precision, recall and F1 (0-1) of each label."""
    hits, said, wanted = confusion.diagonal(), confusion.sum(0)[:-1], confusion.sum(1)
    precision, recall = hits / np.maximum(said, 1), hits / np.maximum(wanted, 1)
    return precision, recall, 2 * hits / np.maximum(said + wanted, 1)


def _macro_f1(confusion: Counts) -> float:
    there = confusion.sum(0)[:-1] + confusion.sum(1) > 0
    return float(100 * _shares(confusion)[2][there].mean())


def _classes(confusion: Counts, labels: Sequence[str]) -> list[ClassScore]:
    precision, recall, f1 = ((100 * shares).tolist() for shares in _shares(confusion))
    rows = confusion.sum(1).astype(int).tolist()
    return [ClassScore(*one) for one in zip(labels, precision, recall, f1, rows, strict=True)]
