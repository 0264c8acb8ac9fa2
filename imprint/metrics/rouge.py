"""ROUGE of segmented texts, as computed by the packages `rouge_chinese` and `rouge`."""

import itertools
import warnings
from collections.abc import Sequence

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # invalid escapes: warnings since Python 3.12
    import rouge_chinese

from imprint.metrics.subsequence import common_length, common_words

Rouge = tuple[float, float, float]
"""F1 of ROUGE-1, ROUGE-2 and ROUGE-L, 0-1."""
EPSILON = 1e-8
"""Both packages add it to the denominator of F1, so equal texts score slightly less than 1."""


def chinese_rouge(prediction: Sequence[str], reference: Sequence[str]) -> Rouge:
    """ROUGE by rouge_chinese 1.0: sets of unigrams and bigrams, and the longest common subsequence of all words.

    Both sides need at least one word that is not blank. The package computes all but ROUGE-L, for which it needs minutes.
    """
    package = rouge_chinese.Rouge(metrics=["rouge-1", "rouge-2"], stats=["f"])
    texts = " ".join(prediction), " ".join(reference)
    (scores,) = package.get_scores(*texts)
    predicted, expected = (
        [word for sentence in package.cut_sent(text) if sentence for word in " ".join(sentence.split()).split(" ")] for text in texts
    )
    longest = _f1(common_length(expected, predicted), len(predicted), len(expected))
    return float(scores["rouge-1"]["f"]), float(scores["rouge-2"]["f"]), longest


def plain_rouge(prediction: Sequence[str], reference: Sequence[str]) -> Rouge:
    """ROUGE as the package rouge 1.0.1 (pltrdy/rouge) computes it: an ASCII full stop ends a sentence and is removed.

    ROUGE-L is at summary level (Lin, ROUGE, 2004, section 3.2) over *distinct* words: those in the longest common subsequence of any
    prediction sentence with any reference sentence. A side of nothing but full stops scores 0; the package raises.
    """
    predicted, expected = _sentences(prediction), _sentences(reference)
    if not predicted or not expected:
        return 0.0, 0.0, 0.0
    predicted_words, expected_words = ([word for sentence in text for word in sentence] for text in (predicted, expected))
    common = _common_words(expected, predicted)
    return (
        _f1(len(set(predicted_words) & set(expected_words)), len(set(predicted_words)), len(set(expected_words))),
        _f1(len(_bigrams(predicted_words) & _bigrams(expected_words)), len(_bigrams(predicted_words)), len(_bigrams(expected_words))),
        _f1(len(common), len(set(predicted_words)), len(set(expected_words))),
    )


def _common_words(expected: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> set[str]:
    """The words in the longest common subsequence of any two sentences; pairs that cannot add a word are not compared."""
    others = list(dict.fromkeys(map(tuple, predicted)))
    holding: dict[str, dict[int, None]] = {}
    for number, other in enumerate(others):
        for word in other:
            holding.setdefault(word, {})[number] = None
    common: set[str] = set()
    for sentence in dict.fromkeys(map(tuple, expected)):
        compared: set[int] = set()
        for word in dict.fromkeys(sentence):
            for number in holding.get(word, ()):
                if word in common:
                    break
                if number not in compared:
                    compared.add(number)
                    common |= common_words(sentence, others[number])
    return common


def _sentences(words: Sequence[str]) -> list[list[str]]:
    return [" ".join(part.split()).split(" ") for part in " ".join(words).split(".") if part]


def _bigrams(words: Sequence[str]) -> set[tuple[str, str]]:
    return set(itertools.pairwise(words))


def _f1(shared: int, predicted: int, expected: int) -> float:
    precision, recall = shared / predicted if predicted else 0.0, shared / expected if expected else 0.0
    return 2 * precision * recall / (precision + recall + EPSILON)
