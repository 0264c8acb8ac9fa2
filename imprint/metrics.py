"""Chinese ROUGE and BLEU under a named protocol, with intervals, and rates that a mean score hides.

The protocol `chatglm-6b` is the one of ChatGLM-6B's `ptuning/main.py`: ROUGE F over jieba words by rouge_chinese, BLEU-4
over characters by nltk with smoothing method 3, each row times 100 and rounded to four decimals, then the mean of the rows.
"""

import functools
import unicodedata
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from imprint.errors import UserError

with warnings.catch_warnings():
    # jieba looks for the deprecated pkg_resources, and both have escapes that Python >= 3.12 warns of when it compiles them.
    warnings.simplefilter("ignore")
    import jieba
    import rouge_chinese

PROTOCOLS = ("chatglm-6b",)
METRICS = ("rouge-1", "rouge-2", "rouge-l", "bleu-4")
REPEATED_CHARACTERS = 4
REPEATED_TIMES = 4


@dataclass(frozen=True)
class RowScore:
    """The scores of one prediction against its reference, 0-100, rounded to four decimals."""

    rouge_1: float
    """F score of the sets of jieba words."""
    rouge_2: float
    """F score of the sets of jieba word pairs."""
    rouge_l: float
    """F score of the longest common subsequence of jieba words."""
    bleu_4: float
    """BLEU-4 over characters, with nltk's smoothing method 3."""
    empty: bool
    """Whether the prediction had nothing but whitespace."""

    def by_metric(self) -> dict[str, float]:
        """The four scores under the names of `METRICS`."""
        return {"rouge-1": self.rouge_1, "rouge-2": self.rouge_2, "rouge-l": self.rouge_l, "bleu-4": self.bleu_4}


@dataclass(frozen=True)
class Mean:
    """The mean of one metric over the rows, 0-100, and how far chance in the choice of rows could move it."""

    value: float
    """Mean over the rows."""
    low: float
    """Lower end of the bootstrap interval of the mean."""
    high: float
    """Upper end of the bootstrap interval of the mean."""


@dataclass(frozen=True)
class Summary:
    """What a set of predictions scored."""

    protocol: str
    """Name of the protocol, one of `PROTOCOLS`."""
    rows: int
    """How many predictions were scored."""
    empty: int
    """How many of them were empty; these scored 0."""
    means: dict[str, Mean]
    """Name of the metric -> its mean, in the order of `METRICS`."""


def score(predictions: Sequence[str], references: Sequence[str], protocol: str = "chatglm-6b") -> dict[str, float | int]:
    """The mean scores of predictions: `rouge-1`, `rouge-2`, `rouge-l`, `bleu-4` (0-100) and `empty` (a count).

    Raises UserError for an unknown protocol, for lists of different lengths and for lists without rows.
    """
    rows = score_rows(predictions, references, protocol)
    _refuse_nothing(len(rows))
    columns = [row.by_metric() for row in rows]
    means: dict[str, float | int] = {metric: float(np.mean([row[metric] for row in columns])) for metric in METRICS}
    return means | {"empty": sum(row.empty for row in rows)}


def score_rows(predictions: Sequence[str], references: Sequence[str], protocol: str = "chatglm-6b") -> list[RowScore]:
    """The scores of each prediction, in order. Raises UserError for an unknown protocol and for lists of different lengths."""
    if protocol not in PROTOCOLS:
        raise UserError(f'There is no metric protocol "{protocol}". Allowed: {", ".join(PROTOCOLS)}.')
    if len(predictions) != len(references):
        raise UserError(
            f"{len(predictions)} predictions cannot be scored against {len(references)} references: "
            "there must be one reference for each prediction, in the same order."
        )
    return [_score_row(prediction, reference) for prediction, reference in zip(predictions, references, strict=True)]


def summary(rows: Sequence[RowScore], protocol: str = "chatglm-6b") -> Summary:
    """The mean and the 95 % interval of each metric. Raises UserError when there are no rows."""
    _refuse_nothing(len(rows))
    columns = [row.by_metric() for row in rows]
    means = {}
    for metric in METRICS:
        values = [row[metric] for row in columns]
        means[metric] = Mean(float(np.mean(values)), *interval(values))
    return Summary(protocol, len(rows), sum(row.empty for row in rows), means)


def gains(before: Sequence[RowScore], after: Sequence[RowScore]) -> dict[str, Mean]:
    """How much each metric rose from one model to another on the same rows: mean and 95 % interval of the rows' differences.

    Rows are paired, so a gain is surer than two intervals side by side suggest. Raises UserError for different or no rows.
    """
    if len(before) != len(after):
        raise UserError(f"{len(before)} rows before and {len(after)} after cannot be paired: score both models on the same rows.")
    _refuse_nothing(len(before))
    pairs = [(old.by_metric(), new.by_metric()) for old, new in zip(before, after, strict=True)]
    found = {}
    for metric in METRICS:
        values = [new[metric] - old[metric] for old, new in pairs]
        found[metric] = Mean(float(np.mean(values)), *interval(values))
    return found


def interval(values: Sequence[float], *, seed: int = 0, samples: int = 1000, confidence: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap interval of the mean: (low, high); the same for the same values and seed.

    Raises UserError when there are no values. Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    _refuse_nothing(len(values))
    found = np.asarray(values, dtype=np.float64)
    chance = np.random.default_rng(seed)
    means = [found[chance.integers(0, len(found), len(found))].mean() for _ in range(samples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def copied_share(predictions: Sequence[str], training_texts: Collection[str]) -> float:
    """The share (0-1) of predictions that are a training text, whitespace and the width of punctuation aside.

    An empty prediction is no copy. Raises UserError when there are no predictions.
    """
    _refuse_nothing(len(predictions))
    known = {_folded(text) for text in training_texts} - {""}
    return sum(_folded(text) in known for text in predictions) / len(predictions)


def repeated_share(predictions: Sequence[str]) -> float:
    """The share (0-1) of predictions in which some run of 4 characters occurs 4 times or more; whitespace does not count.

    Occurrences may overlap. Raises UserError when there are no predictions.
    """
    _refuse_nothing(len(predictions))
    return sum(_repeats("".join(text.split())) for text in predictions) / len(predictions)


def words(text: str) -> list[str]:
    """The words that ROUGE sees: jieba's cut of the text; joined they are the text again."""
    return [str(word) for word in _cutter().cut(text)]


def _refuse_nothing(rows: int) -> None:
    if not rows:
        raise UserError("There is nothing to score: 0 rows were given, at least 1 is needed.")


def _score_row(prediction: str, reference: str) -> RowScore:
    if not prediction.strip() or not reference.strip():
        return RowScore(0.0, 0.0, 0.0, 0.0, not prediction.strip())  # rouge_chinese divides by zero or refuses such rows
    (rouge,) = rouge_chinese.Rouge(stats=["f"]).get_scores(" ".join(words(prediction)), " ".join(words(reference)))
    bleu = sentence_bleu([list(reference)], list(prediction), smoothing_function=SmoothingFunction().method3)
    rounded = [round(float(rouge[metric]["f"]) * 100, 4) for metric in METRICS[:3]]
    return RowScore(rounded[0], rounded[1], rounded[2], round(float(bleu) * 100, 4), empty=False)


@functools.cache
def _cutter() -> jieba.Tokenizer:
    """Jieba with its own dictionary, whatever else in this process has taught the shared one.

    Filled here and not by its `initialize`, which logs to the terminal and trusts a file that anybody can put in the temporary
    folder; reading the dictionary takes half a second once.
    """
    cutter = jieba.Tokenizer()
    cutter.FREQ, cutter.total = cutter.gen_pfdict(cutter.get_dict_file())
    cutter.initialized = True
    return cutter


def _folded(text: str) -> str:
    """The text without whitespace, full-width forms as half-width, Chinese stops and quotes as ASCII."""
    narrow = unicodedata.normalize("NFKC", "".join(text.split()))
    return narrow.translate(str.maketrans("。、“”‘’", ".,\"\"''"))


def _repeats(text: str) -> bool:
    runs = Counter(text[start : start + REPEATED_CHARACTERS] for start in range(len(text) - REPEATED_CHARACTERS + 1))
    return max(runs.values(), default=0) >= REPEATED_TIMES
