"""What a mean score hides: empty, repeating, never-ending and copied answers, and a warning where there are too many."""

import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from imprint.metrics.means import refuse_nothing

REPEATED_CHARACTERS = 4
REPEATED_TIMES = 4
MANY_EMPTY = 0.05
MANY_REPEATED = 0.2
MANY_UNFINISHED = 0.2


@dataclass(frozen=True)
class Rates:
    """Shares (0-1) of the answers that went wrong in a way that a mean score hides."""

    empty: float
    """Nothing but whitespace."""
    repeated: float
    """Going round in circles: see `repeated_share`."""
    unfinished: float | None
    """Ended by the limit and not by the model; None where that is not known."""


@dataclass(frozen=True)
class Warned:
    """What is wrong with many answers and what to do about it, in both languages."""

    english: str
    """The sentence in English."""
    chinese: str
    """The sentence in Chinese."""


def rates_of(predictions: Sequence[str], unfinished: int | None) -> Rates:
    """The rates of answers of which `unfinished` were ended by the limit. Raises UserError when there are no predictions."""
    refuse_nothing(len(predictions))
    empty = sum(not text.strip() for text in predictions) / len(predictions)
    return Rates(empty, repeated_share(predictions), None if unfinished is None else unfinished / len(predictions))


def warnings_of(rates: Rates) -> list[Warned]:
    """A sentence for more than 5 % empty answers, more than 20 % that repeat themselves and more than 20 % that never stop."""
    found = []
    if rates.empty > MANY_EMPTY:
        found.append(
            Warned(
                f"{rates.empty:.0%} of the answers are empty: the model ends at once. Look for rows without an answer "
                "(`imprint data check FILE`), and try a lower optimizer.learning_rate or fewer train.steps.",
                f"{rates.empty:.0%} 的回答是空的：模型一开口就结束。请用 `imprint data check FILE` 查找没有答案的行，并试试更低的 "
                "optimizer.learning_rate 或更少的 train.steps。",
            )
        )
    if rates.repeated > MANY_REPEATED:
        found.append(
            Warned(
                f"{rates.repeated:.0%} of the answers repeat themselves. Try a lower optimizer.learning_rate or fewer train.steps, "
                "or sample (temperature=0.95 top_p=0.7): greedy answers go round in circles sooner.",
                f"{rates.repeated:.0%} 的回答在重复自己。请试试更低的 optimizer.learning_rate、更少的 train.steps，或改用采样"
                "（temperature=0.95 top_p=0.7）：贪心解码更容易绕圈子。",
            )
        )
    if rates.unfinished is not None and rates.unfinished > MANY_UNFINISHED:
        found.append(
            Warned(
                f"{rates.unfinished:.0%} of the answers never stop: their limit ended them. Where the references are longer than that, "
                "raise max_new_tokens; otherwise train longer, on answers that data.max_target_length does not cut "
                "(`imprint data check FILE` counts them).",
                f"{rates.unfinished:.0%} 的回答停不下来，是被长度上限截断的。若参考答案本来就更长，请增大 max_new_tokens；"
                "否则请多训练一些，并让 data.max_target_length 不截断答案（`imprint data check FILE` 会统计）。",
            )
        )
    return found


def copied_share(predictions: Sequence[str], training_texts: Collection[str]) -> float:
    """The share (0-1) of predictions that are a training text, whitespace and the width of punctuation aside.

    An empty prediction is no copy. Raises UserError when there are no predictions.
    """
    refuse_nothing(len(predictions))
    known = {folded(text) for text in training_texts} - {""}
    return sum(folded(text) in known for text in predictions) / len(predictions)


def repeated_share(predictions: Sequence[str]) -> float:
    """The share (0-1) of predictions in which some run of 4 characters occurs 4 times or more; whitespace does not count.

    Occurrences may overlap. Raises UserError when there are no predictions.
    """
    refuse_nothing(len(predictions))
    return sum(_repeats("".join(text.split())) for text in predictions) / len(predictions)


def folded(text: str) -> str:
    """The text without whitespace, full-width forms as half-width, Chinese stops and quotes as ASCII."""
    narrow = unicodedata.normalize("NFKC", "".join(text.split()))
    return narrow.translate(str.maketrans("。、“”‘’", ".,\"\"''"))


def _repeats(text: str) -> bool:
    runs = Counter(text[start : start + REPEATED_CHARACTERS] for start in range(len(text) - REPEATED_CHARACTERS + 1))
    return max(runs.values(), default=0) >= REPEATED_TIMES
