"""Predictions against references, row by row, under one protocol or several at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from imprint.errors import UserError
from imprint.metrics.protocols import Protocol, protocol_named
from imprint.metrics.rouge import Rouge, chinese_rouge, plain_rouge
from imprint.metrics.tokens import trimmed, without_spaces, words


@dataclass(frozen=True)
class RowScore:
    """The scores of one prediction against its reference, 0-100, rounded as its protocol says."""

    rouge_1: float
    """F score of the sets of jieba words."""
    rouge_2: float
    """F score of the sets of jieba word pairs."""
    rouge_l: float
    """F score of the longest common subsequence of jieba words."""
    bleu_4: float
    """BLEU-4 over characters or words, with nltk's smoothing method 3."""
    empty: bool
    """Whether the prediction had nothing but whitespace."""
    counted: bool = True
    """Whether the row is a part of the mean; not where its protocol drops rows with nothing in them."""

    def by_metric(self) -> dict[str, float]:
        """The four scores under the names of `METRICS`."""
        return {"rouge-1": self.rouge_1, "rouge-2": self.rouge_2, "rouge-l": self.rouge_l, "bleu-4": self.bleu_4}


def score_rows(predictions: Sequence[str], references: Sequence[str], protocol: str = "chatglm-6b") -> list[RowScore]:
    """The scores of each prediction, in order. Raises UserError for an unknown protocol and for lists of different lengths."""
    return score_protocols(predictions, references, [protocol])[protocol]


def score_protocols(predictions: Sequence[str], references: Sequence[str], protocols: Sequence[str]) -> dict[str, list[RowScore]]:
    """The scores of each prediction under each protocol: name -> rows in order. Each text is cut into words once for all of them.

    Raises UserError for an unknown protocol and for lists of different lengths.
    """
    named = {name: protocol_named(name) for name in protocols}
    refuse_unpaired(predictions, references)
    found: dict[str, list[RowScore]] = {name: [] for name in named}
    for prediction, reference in zip(predictions, references, strict=True):
        pair = _Pair(prediction, reference)
        for name, protocol in named.items():
            found[name].append(_score(pair, protocol))
    return found


def refuse_unpaired(predictions: Sequence[str], references: Sequence[str]) -> None:
    """Raise UserError where there is not one reference for each prediction."""
    if len(predictions) != len(references):
        raise UserError(
            f"{len(predictions)} predictions cannot be scored against {len(references)} references: "
            "there must be one reference for each prediction, in the same order."
        )


class _Pair:
    """One prediction and its reference; what several protocols need of them is computed once."""

    def __init__(self, prediction: str, reference: str) -> None:
        self.prediction, self.reference = prediction, reference
        self.blank = not prediction.strip() or not reference.strip()

    @cached_property
    def words(self) -> tuple[list[str], list[str]]:
        """Jieba's words of both."""
        return words(self.prediction), words(self.reference)

    @cached_property
    def chinese_rouge(self) -> Rouge:
        """ROUGE by rouge_chinese; it refuses a text without words, or divides by zero."""
        return (0.0, 0.0, 0.0) if self.blank else chinese_rouge(*self.words)

    @cached_property
    def trimmed_rouge(self) -> Rouge:
        """The same without blanks at the ends: to rouge_chinese a line break there is a sentence with one empty word."""
        if self.blank or (self.prediction == self.prediction.strip() and self.reference == self.reference.strip()):
            return self.chinese_rouge
        said, wanted = self.words
        return chinese_rouge(trimmed(said), trimmed(wanted))

    @cached_property
    def character_bleu(self) -> float:
        """BLEU-4 over characters."""
        return _bleu(list(self.prediction), list(self.reference))


def _score(pair: _Pair, protocol: Protocol) -> RowScore:
    empty = not pair.prediction.strip()
    if protocol.empties == "zero" and pair.blank:
        return RowScore(0.0, 0.0, 0.0, 0.0, empty)
    said, wanted = pair.words
    if protocol.rouge == "rouge":
        said, wanted = without_spaces(said), without_spaces(wanted)
        if protocol.empties == "dropped" and not (said and wanted):
            return RowScore(0.0, 0.0, 0.0, 0.0, empty, counted=False)
        rouge = plain_rouge(said, wanted)
    else:
        rouge = pair.chinese_rouge if protocol.bleu_tokens == "characters" else pair.trimmed_rouge
        said, wanted = trimmed(said), trimmed(wanted)
    bleu = pair.character_bleu if protocol.bleu_tokens == "characters" else _bleu(said, wanted)
    scores = [100 * value for value in (*rouge, bleu)]
    if protocol.decimals is not None:
        scores = [round(value, protocol.decimals) for value in scores]
    return RowScore(scores[0], scores[1], scores[2], scores[3], empty)


def _bleu(said: list[str], wanted: list[str]) -> float:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu  # takes a second, of every command that only might score

    return float(sentence_bleu([wanted], said, smoothing_function=SmoothingFunction().method3))
