"""ROUGE of texts that are cut into words: that of the package `rouge_chinese`, and that of the package `rouge`."""

import itertools
import warnings
from collections.abc import Sequence

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it has escapes that Python >= 3.12 warns of when it compiles them
    import rouge_chinese

Rouge = tuple[float, float, float]
"""F of ROUGE-1, ROUGE-2 and ROUGE-L, 0-1."""
EPSILON = 1e-8
"""Both packages add it to the divisor of F, so that two equal texts score a little less than 1."""


def chinese_rouge(prediction: Sequence[str], reference: Sequence[str]) -> Rouge:
    """ROUGE by rouge_chinese 1.0: sets of words and of word pairs, and the longest common subsequence of all words.

    Both sides must have a word that is not blank.
    """
    (found,) = rouge_chinese.Rouge(stats=["f"]).get_scores(" ".join(prediction), " ".join(reference))
    return float(found["rouge-1"]["f"]), float(found["rouge-2"]["f"]), float(found["rouge-l"]["f"])


def plain_rouge(prediction: Sequence[str], reference: Sequence[str]) -> Rouge:
    """ROUGE as the package rouge 1.0.1 (pltrdy/rouge) computes it: sentences end at an ASCII full stop, which is then no word any more.

    ROUGE-L is at summary level (Lin, ROUGE, 2004, section 3.2) over *distinct* words: those that occur in some longest common subsequence
    of a sentence of the one with a sentence of the other. A side without anything but full stops scores 0, where the package raises.
    """
    said, wanted = _sentences(prediction), _sentences(reference)
    if not said or not wanted:
        return 0.0, 0.0, 0.0
    said_words, wanted_words = ([word for sentence in text for word in sentence] for text in (said, wanted))
    common: set[str] = set()
    for sentence in wanted:
        for other in said:
            common |= _common_subsequence(sentence, other)
    return (
        _f(len(set(said_words) & set(wanted_words)), len(set(said_words)), len(set(wanted_words))),
        _f(len(_pairs(said_words) & _pairs(wanted_words)), len(_pairs(said_words)), len(_pairs(wanted_words))),
        _f(len(common), len(set(said_words)), len(set(wanted_words))),
    )


def _sentences(cut: Sequence[str]) -> list[list[str]]:
    return [" ".join(part.split()).split(" ") for part in " ".join(cut).split(".") if part]


def _pairs(cut: Sequence[str]) -> set[tuple[str, str]]:
    return set(itertools.pairwise(cut))


def _f(shared: int, said: int, wanted: int) -> float:
    precision, recall = shared / said if said else 0.0, shared / wanted if wanted else 0.0
    return 2 * precision * recall / (precision + recall + EPSILON)


def _common_subsequence(one: Sequence[str], other: Sequence[str]) -> set[str]:
    """The words of a longest common subsequence; of several, the one that the package walks to from the end."""
    lengths = [[0] * (len(other) + 1)]
    for word in one:
        above, row = lengths[-1], [0]
        for column, match in enumerate(other):
            row.append(above[column] + 1 if word == match else max(above[column + 1], row[column]))
        lengths.append(row)
    found = set()
    line, column = len(one), len(other)
    while line and column:
        if one[line - 1] == other[column - 1]:
            found.add(one[line - 1])
            line, column = line - 1, column - 1
        elif lengths[line - 1][column] > lengths[line][column - 1]:
            line -= 1
        else:
            column -= 1
    return found
