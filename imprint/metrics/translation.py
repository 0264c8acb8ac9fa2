"""Corpus BLEU and chrF by sacreBLEU (Post 2018, arXiv 1804.08771; Popović 2015)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imprint.metrics.corpus_metric import CorpusMetric, FloatArray


@dataclass(frozen=True)
class TranslationScores:
    """The scores of translations."""

    bleu: CorpusMetric
    """Corpus BLEU, 0-100."""
    chrf: CorpusMetric
    """Corpus chrF2, 0-100."""
    rows: list[dict[str, float]]
    """Each row's own BLEU and chrF2."""
    signatures: dict[str, str]
    """Metric -> sacreBLEU's signature, which names all settings of the score."""


def score_translation(predictions: Sequence[str], references: Sequence[str], tokenizer: str) -> TranslationScores:
    """Score predictions against one reference each; an empty prediction scores 0 and counts.

    `tokenizer` is sacreBLEU's tokenizer for BLEU: zh, 13a, intl, char. chrF always counts characters.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    # "Effective order" for single rows: a row of three tokens has no 4-gram.
    bleu, row_bleu, chrf = BLEU(tokenize=tokenizer), BLEU(tokenize=tokenizer, effective_order=True), CHRF()
    # Private, but what `corpus_score` and sacreBLEU's significance tests call; our tests compare the sums with `corpus_score`.
    bleu_statistics = np.array(bleu._extract_corpus_statistics(predictions, [references]), dtype=np.float64)
    chrf_statistics = np.array(chrf._extract_corpus_statistics(predictions, [references]), dtype=np.float64)

    def score(metric: Any, sums: FloatArray) -> float:
        return float(metric._compute_score_from_stats(sums.tolist()).score)

    rows = [
        {"bleu": score(row_bleu, bleu_sums), "chrf": score(chrf, chrf_sums)}
        for bleu_sums, chrf_sums in zip(bleu_statistics, chrf_statistics, strict=True)
    ]
    return TranslationScores(
        CorpusMetric(bleu_statistics, lambda sums: score(bleu, sums)),
        CorpusMetric(chrf_statistics, lambda sums: score(chrf, sums)),
        rows,
        {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())},
    )
