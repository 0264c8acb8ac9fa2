"""ROUGE and BLEU-4 of each row under one or several protocols."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from imprint.messages import Bilingual, UserError
from imprint.metrics.bleu import sentence_bleu
from imprint.metrics.protocols import Protocol, get_protocol
from imprint.metrics.rouge import Rouge, chinese_rouge, plain_rouge
from imprint.metrics.tokens import segment, strip_spaces, strip_whitespace


@dataclass(frozen=True)
class RowScore:
    """The scores of one prediction, 0-100, rounded as its protocol says."""

    rouge_1: float
    """F score over the sets of jieba words."""
    rouge_2: float
    """F score over the sets of word bigrams."""
    rouge_l: float
    """F score of the longest common subsequence of jieba words."""
    bleu_4: float
    """BLEU-4 over characters or words, with nltk's smoothing method 3."""
    empty: bool
    """Whether the prediction is only whitespace."""
    counted: bool = True
    """Whether the row is part of the mean; False if the protocol drops empty rows."""

    def by_metric(self) -> dict[str, float]:
        """The four scores under the names of `METRICS`."""
        return {"rouge-1": self.rouge_1, "rouge-2": self.rouge_2, "rouge-l": self.rouge_l, "bleu-4": self.bleu_4}


def score_rows(predictions: Sequence[str], references: Sequence[str], protocol: str = "chatglm-6b") -> list[RowScore]:
    """The scores of each prediction, in order. Raises UserError for an unknown protocol and for lists of different lengths."""
    return score_protocols(predictions, references, [protocol])[protocol]


def score_protocols(predictions: Sequence[str], references: Sequence[str], protocols: Sequence[str]) -> dict[str, list[RowScore]]:
    """The scores of each prediction under each protocol: name -> rows in order. Each text is segmented only once.

    Raises UserError for an unknown protocol and for lists of different lengths.
    """
    by_name = {name: get_protocol(name) for name in protocols}
    require_pairs(predictions, references)
    scores: dict[str, list[RowScore]] = {name: [] for name in by_name}
    for prediction, reference in zip(predictions, references, strict=True):
        pair = _Pair(prediction, reference)
        for name, protocol in by_name.items():
            scores[name].append(_score(pair, protocol))
    return scores


def require_pairs(predictions: Sequence[str], references: Sequence[str]) -> None:
    """Raise UserError unless there is one reference for each prediction."""
    if len(predictions) != len(references):
        raise UserError(
            Bilingual(
                f"{len(predictions)} predictions cannot be scored against {len(references)} references: "
                "there must be one reference for each prediction, in the same order.",
                f"{len(predictions)} 条预测无法与 {len(references)} 条参考答案对应：每条预测应有一条参考答案，顺序相同。",
            )
        )


class _Pair:
    """One prediction and its reference; caches what several protocols share."""

    def __init__(self, prediction: str, reference: str) -> None:
        self.prediction, self.reference = prediction, reference
        self.blank = not prediction.strip() or not reference.strip()
        self._word_bleu: tuple[list[str], list[str], float] | None = None

    @cached_property
    def words(self) -> tuple[list[str], list[str]]:
        """Jieba's words of both."""
        return segment(self.prediction), segment(self.reference)

    @cached_property
    def chinese_rouge(self) -> Rouge:
        """ROUGE by rouge_chinese, which fails on a text without words."""
        return (0.0, 0.0, 0.0) if self.blank else chinese_rouge(*self.words)

    @cached_property
    def trimmed_rouge(self) -> Rouge:
        """The same for stripped texts: rouge_chinese takes a line break at an end for a sentence with one empty word."""
        if self.blank or (self.prediction == self.prediction.strip() and self.reference == self.reference.strip()):
            return self.chinese_rouge
        predicted, expected = self.words
        return chinese_rouge(strip_whitespace(predicted), strip_whitespace(expected))

    @cached_property
    def character_bleu(self) -> float:
        """BLEU-4 over characters."""
        return sentence_bleu(list(self.prediction), list(self.reference))

    def word_bleu(self, predicted: list[str], expected: list[str]) -> float:
        """BLEU-4 over words as a protocol strips them; most pairs have the same ones under all protocols."""
        if self._word_bleu is None or self._word_bleu[:2] != (predicted, expected):
            self._word_bleu = predicted, expected, sentence_bleu(predicted, expected)
        return self._word_bleu[2]


def _score(pair: _Pair, protocol: Protocol) -> RowScore:
    empty = not pair.prediction.strip()
    if protocol.empties == "zero" and pair.blank:
        return RowScore(0.0, 0.0, 0.0, 0.0, empty)
    strip = strip_spaces if protocol.rouge == "rouge" else strip_whitespace
    predicted, expected = map(strip, pair.words)
    if protocol.empties == "dropped" and not (predicted and expected):
        return RowScore(0.0, 0.0, 0.0, 0.0, empty, counted=False)
    if protocol.rouge == "rouge":
        rouge = plain_rouge(predicted, expected)
    else:
        rouge = pair.chinese_rouge if protocol.bleu_tokens == "characters" else pair.trimmed_rouge
    bleu = pair.character_bleu if protocol.bleu_tokens == "characters" else pair.word_bleu(predicted, expected)
    scores = [100 * value for value in (*rouge, bleu)]
    if protocol.decimals is not None:
        scores = [round(value, protocol.decimals) for value in scores]
    return RowScore(scores[0], scores[1], scores[2], scores[3], empty)
