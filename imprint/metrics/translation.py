"""BLEU and chrF of a whole file, by sacreBLEU (Post 2018, arXiv 1804.08771; Popović 2015): counts of all rows are added up first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imprint.metrics.tally import Counts, Tally


@dataclass(frozen=True)
class Translated:
    """Predictions scored as translations."""

    bleu: Tally
    """Corpus BLEU, 0-100."""
    chrf: Tally
    """Corpus chrF2, 0-100."""
    rows: list[dict[str, float]]
    """Each row's own BLEU and chrF2."""
    signatures: dict[str, str]
    """Metric -> sacreBLEU's signature, which says all that the score depends on."""


def translated(predictions: Sequence[str], references: Sequence[str], tokenizer: str) -> Translated:
    """Score predictions against one reference each; an empty prediction shares nothing with its reference, and so scores 0 and counts.

    `tokenizer` is sacreBLEU's name of what BLEU counts: zh, 13a, intl, char. chrF counts characters, whatever it is.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    # For rows alone "effective order": one of three tokens has no run of four, of which a file has plenty.
    bleu, row_bleu, chrf = BLEU(tokenize=tokenizer), BLEU(tokenize=tokenizer, effective_order=True), CHRF()
    # What `corpus_score` and sacreBLEU's own significance tests call; the tests hold the sums to `corpus_score`.
    bleu_counts = np.array(bleu._extract_corpus_statistics(predictions, [references]), dtype=np.float64)
    chrf_counts = np.array(chrf._extract_corpus_statistics(predictions, [references]), dtype=np.float64)

    def score(metric: Any, sums: Counts) -> float:
        return float(metric._compute_score_from_stats(sums.tolist()).score)

    rows = [{"bleu": score(row_bleu, one), "chrf": score(chrf, other)} for one, other in zip(bleu_counts, chrf_counts, strict=True)]
    return Translated(
        Tally(bleu_counts, lambda sums: score(bleu, sums)),
        Tally(chrf_counts, lambda sums: score(chrf, sums)),
        rows,
        {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())},
    )
