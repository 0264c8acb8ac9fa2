"""Classification metrics: accuracy, macro-F1, per-class scores and the confusion matrix.

Legend: N rows, L labels; a confusion matrix is (L, L + 1): one row for each true label, one column for each predicted label, the last for
predictions that are no label.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from imprint.messages import Bilingual, UserError
from imprint.metrics.corpus_metric import CorpusMetric, FloatArray, mean_metric


@dataclass(frozen=True)
class ClassScore:
    """Precision, recall and F1 of one label, 0-100."""

    label: str
    """The label."""
    precision: float
    """Share of correct predictions of this label; 0 if it was never predicted."""
    recall: float
    """Share of this label's rows that were predicted correctly; 0 if it has none."""
    f1: float
    """Their harmonic mean."""
    rows: int
    """How many rows have this label."""


@dataclass(frozen=True)
class ClassificationScores:
    """The scores of predicted labels."""

    accuracy: CorpusMetric
    """Share of correct predictions, 0-100."""
    macro_f1: CorpusMetric
    """Mean F1 of the labels, 0-100; labels in neither references nor predictions are excluded."""
    correct: list[bool]
    """Which rows are correct."""
    classes: list[ClassScore]
    """One for each label, in their order."""
    confusion: list[list[int]]
    """(L, L + 1) confusion matrix."""


def score_classification(predictions: Sequence[str], references: Sequence[str], labels: Sequence[str]) -> ClassificationScores:
    """Score predicted labels, stripped of whitespace at both ends; a prediction that is no label is wrong.

    Raises UserError for references that are no label.
    """
    from scipy.sparse import csr_array

    indices = {label: index for index, label in enumerate(labels)}
    expected = [reference.strip() for reference in references]
    if unknown := sorted({reference for reference in expected if reference not in indices}):
        raise UserError(
            Bilingual(
                f'the references hold {len(unknown)} texts that are no label, as "{unknown[0]}"; the labels are {", ".join(labels)}. '
                "Name every label of the data in task.labels.",
                f'参考答案中有 {len(unknown)} 种文本不是标签，例如 "{unknown[0]}"；标签为 {"、".join(labels)}。'
                "请在 task.labels 中写全数据的标签。",
            )
        )
    predicted = [indices.get(prediction.strip(), len(labels)) for prediction in predictions]
    cells = np.array([indices[true] * (len(labels) + 1) + guess for true, guess in zip(expected, predicted, strict=True)], dtype=np.int64)
    size = (len(cells), len(labels) * (len(labels) + 1))  # dense, ten thousand rows with a hundred labels would take a gigabyte
    counts = csr_array((np.ones(len(cells)), (np.arange(len(cells)), cells)), shape=size)
    correct = [indices[true] == guess for true, guess in zip(expected, predicted, strict=True)]
    confusion = counts.sum(0).reshape(len(labels), len(labels) + 1)
    return ClassificationScores(
        accuracy=mean_metric(100.0 * np.array(correct)),
        macro_f1=CorpusMetric(counts, lambda sums: _macro_f1(sums.reshape(len(labels), len(labels) + 1))),
        correct=correct,
        classes=_classes(confusion, labels),
        confusion=confusion.astype(int).tolist(),
    )


def _precision_recall_f1(confusion: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Precision, recall and F1 (0-1) of each label."""
    hits, predicted, expected = confusion.diagonal(), confusion.sum(0)[:-1], confusion.sum(1)
    precision, recall = hits / np.maximum(predicted, 1), hits / np.maximum(expected, 1)
    return precision, recall, 2 * hits / np.maximum(predicted + expected, 1)


def _macro_f1(confusion: FloatArray) -> float:
    present = confusion.sum(0)[:-1] + confusion.sum(1) > 0
    return float(100 * _precision_recall_f1(confusion)[2][present].mean())


def _classes(confusion: FloatArray, labels: Sequence[str]) -> list[ClassScore]:
    precision, recall, f1 = ((100 * shares).tolist() for shares in _precision_recall_f1(confusion))
    rows = confusion.sum(1).astype(int).tolist()
    return [ClassScore(*values) for values in zip(labels, precision, recall, f1, rows, strict=True)]
