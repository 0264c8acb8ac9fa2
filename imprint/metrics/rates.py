"""Rates of degenerate answers (empty, repetitive, unfinished, copied), and warnings if they are too high."""

import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from imprint.messages import Bilingual
from imprint.metrics.means import require_rows

NGRAM_CHARACTERS = 4
MIN_REPETITIONS = 4
MAX_EMPTY = 0.05
MAX_REPEATED = 0.2
MAX_UNFINISHED = 0.2


@dataclass(frozen=True)
class FailureRates:
    """Shares (0-1) of degenerate answers, which a mean score hides."""

    empty: float
    """Only whitespace."""
    repeated: float
    """Repetitive, as defined by `repeated_share`."""
    unfinished: float | None
    """Ended by the length limit and not by the model; None if unknown."""


def failure_rates(predictions: Sequence[str], unfinished: int | None) -> FailureRates:
    """The rates of these answers; `unfinished` of them were ended by the limit. Raises UserError if there are none."""
    require_rows(len(predictions))
    empty = sum(not text.strip() for text in predictions) / len(predictions)
    return FailureRates(empty, repeated_share(predictions), None if unfinished is None else unfinished / len(predictions))


def failure_warnings(rates: FailureRates) -> list[Bilingual]:
    """A warning for more than 5 % empty, more than 20 % repetitive and more than 20 % unfinished answers."""
    warnings = []
    if rates.empty > MAX_EMPTY:
        warnings.append(
            Bilingual(
                f"{rates.empty:.0%} of the answers are empty: the model ends at once. Look for rows without an answer "
                "(`imprint data check FILE`), and try a lower optimizer.learning_rate or fewer train.steps.",
                f"{rates.empty:.0%} 的回答是空的：模型一开口就结束。请用 `imprint data check FILE` 查找没有答案的行，并试试更低的 "
                "optimizer.learning_rate 或更少的 train.steps。",
            )
        )
    if rates.repeated > MAX_REPEATED:
        warnings.append(
            Bilingual(
                f"{rates.repeated:.0%} of the answers repeat themselves. Try a lower optimizer.learning_rate or fewer train.steps, "
                "or sample (temperature=0.95 top_p=0.7): greedy answers go round in circles sooner.",
                f"{rates.repeated:.0%} 的回答在重复自己。请试试更低的 optimizer.learning_rate、更少的 train.steps，或改用采样"
                "（temperature=0.95 top_p=0.7）：贪心解码更容易绕圈子。",
            )
        )
    if rates.unfinished is not None and rates.unfinished > MAX_UNFINISHED:
        warnings.append(
            Bilingual(
                f"{rates.unfinished:.0%} of the answers never stop: their limit ended them. Where the references are longer than that, "
                "raise max_new_tokens; otherwise train longer, on answers that data.max_target_length does not cut "
                "(`imprint data check FILE` counts them).",
                f"{rates.unfinished:.0%} 的回答停不下来，是被长度上限截断的。若参考答案本来就更长，请增大 max_new_tokens；"
                "否则请多训练一些，并让 data.max_target_length 不截断答案（`imprint data check FILE` 会统计）。",
            )
        )
    return warnings


def copied_share(predictions: Sequence[str], training_texts: Collection[str]) -> float:
    """The share (0-1) of predictions that equal a training text after normalization.

    An empty prediction is no copy. Raises UserError if there are no predictions.
    """
    require_rows(len(predictions))
    known = {normalize_text(text) for text in training_texts} - {""}
    return sum(normalize_text(text) in known for text in predictions) / len(predictions)


def repeated_share(predictions: Sequence[str]) -> float:
    """The share (0-1) of predictions in which a character 4-gram occurs 4 times or more; whitespace is ignored.

    Occurrences may overlap. Raises UserError if there are no predictions.
    """
    require_rows(len(predictions))
    return sum(_repeats("".join(text.split())) for text in predictions) / len(predictions)


def normalize_text(text: str) -> str:
    """The text without whitespace, with half-width forms, and Chinese stops and quotes as ASCII."""
    narrow = unicodedata.normalize("NFKC", "".join(text.split()))
    return narrow.translate(str.maketrans("。、“”‘’", ".,\"\"''"))


def _repeats(text: str) -> bool:
    ngrams = Counter(text[start : start + NGRAM_CHARACTERS] for start in range(len(text) - NGRAM_CHARACTERS + 1))
    return max(ngrams.values(), default=0) >= MIN_REPETITIONS
