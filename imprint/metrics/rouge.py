"""ROUGE of segmented texts, as computed by the packages `rouge_chinese` and `rouge`."""

import itertools
import warnings
from collections.abc import Sequence

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # invalid escapes: warnings since Python 3.12
    import rouge_chinese

Rouge = tuple[float, float, float]
"""F1 of ROUGE-1, ROUGE-2 and ROUGE-L, 0-1."""
EPSILON = 1e-8
"""Both packages add it to the denominator of F1, so equal texts score slightly less than 1."""


def chinese_rouge(prediction: Sequence[str], reference: Sequence[str]) -> Rouge:
    """ROUGE by rouge_chinese 1.0: sets of unigrams and bigrams, and the longest common subsequence of all words.

    Both sides need at least one word that is not blank.
    """
    (scores,) = rouge_chinese.Rouge(stats=["f"]).get_scores(" ".join(prediction), " ".join(reference))
    return float(scores["rouge-1"]["f"]), float(scores["rouge-2"]["f"]), float(scores["rouge-l"]["f"])


def plain_rouge(prediction: Sequence[str], reference: Sequence[str]) -> Rouge:
    """ROUGE as the package rouge 1.0.1 (pltrdy/rouge) computes it: an ASCII full stop ends a sentence and is removed.

    ROUGE-L is at summary level (Lin, ROUGE, 2004, section 3.2) over *distinct* words: those in the longest common subsequence of any
    prediction sentence with any reference sentence. A side of nothing but full stops scores 0; the package raises.
    """
    predicted, expected = _sentences(prediction), _sentences(reference)
    if not predicted or not expected:
        return 0.0, 0.0, 0.0
    predicted_words, expected_words = ([word for sentence in text for word in sentence] for text in (predicted, expected))
    common: set[str] = set()
    for sentence in expected:
        for other in predicted:
            common |= _common_subsequence(sentence, other)
    return (
        _f1(len(set(predicted_words) & set(expected_words)), len(set(predicted_words)), len(set(expected_words))),
        _f1(len(_bigrams(predicted_words) & _bigrams(expected_words)), len(_bigrams(predicted_words)), len(_bigrams(expected_words))),
        _f1(len(common), len(set(predicted_words)), len(set(expected_words))),
    )


def _sentences(words: Sequence[str]) -> list[list[str]]:
    return [" ".join(part.split()).split(" ") for part in " ".join(words).split(".") if part]


def _bigrams(words: Sequence[str]) -> set[tuple[str, str]]:
    return set(itertools.pairwise(words))


def _f1(shared: int, predicted: int, expected: int) -> float:
    precision, recall = shared / predicted if predicted else 0.0, shared / expected if expected else 0.0
    return 2 * precision * recall / (precision + recall + EPSILON)


def _common_subsequence(first: Sequence[str], second: Sequence[str]) -> set[str]:
    """The words of the longest common subsequence; among several, the one that the package's backtracking finds."""
    lengths = [[0] * (len(second) + 1)]
    for word in first:
        above, row = lengths[-1], [0]
        for column, match in enumerate(second):
            row.append(above[column] + 1 if word == match else max(above[column + 1], row[column]))
        lengths.append(row)
    common = set()
    index, column = len(first), len(second)
    while index and column:
        if first[index - 1] == second[column - 1]:
            common.add(first[index - 1])
            index, column = index - 1, column - 1
        elif lengths[index - 1][column] > lengths[index][column - 1]:
            index -= 1
        else:
            column -= 1
    return common
