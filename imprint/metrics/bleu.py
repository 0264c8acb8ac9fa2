"""BLEU-4 of one prediction (Papineni et al. 2002), as nltk's `sentence_bleu` computes it with its third smoothing."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence

MAX_ORDER = 4
"""Length of the longest n-grams."""


def sentence_bleu(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """BLEU-4, 0-1, of tokens: equal weights, brevity penalty; 0 where no token is shared.

    Each order without a match counts 1 / 2, 1 / 4 ... of one n-gram (smoothing 3 of Chen and Cherry 2014). The numbers are those of nltk
    to the last bit, whose import takes longer than scoring hundreds of rows.
    """
    matches, counts = zip(*(_matches(prediction, reference, order) for order in range(1, MAX_ORDER + 1)), strict=True)
    if not matches[0]:
        return 0.0
    precisions, smoothed = [], 0
    for shared, count in zip(matches, counts, strict=True):
        smoothed += not shared
        precisions.append(shared / count if shared else 1 / (2**smoothed * count))
    penalty = 1.0 if len(prediction) > len(reference) else math.exp(1 - len(reference) / len(prediction))
    return penalty * math.exp(math.fsum(math.log(precision) / MAX_ORDER for precision in precisions))


def _matches(prediction: Sequence[str], reference: Sequence[str], order: int) -> tuple[int, int]:
    """(the n-grams of a prediction that the reference has, each as often at most, and all of them, at least 1)."""
    predicted, expected = (
        Counter(zip(*(itertools.islice(text, n, None) for n in range(order)), strict=False)) for text in (prediction, reference)
    )
    return (predicted & expected).total(), max(1, predicted.total())
