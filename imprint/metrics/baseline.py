"""What a small classical classifier makes of the same rows: TF-IDF and logistic regression, in a second and without a GPU."""

from collections.abc import Sequence
from typing import Final

from imprint.errors import UserError
from imprint.metrics.tokens import words

BASELINE: Final = "TF-IDF + logistic regression"
"""What it is called in tables."""
LONGEST: Final = 3
"""Most characters of a run that counts."""
STRENGTH: Final = 10.0
"""Inverse strength of its regularisation: TF-IDF rows have length one, for which scikit-learn's own 1.0 is a heavy hand."""


def baseline_predictions(questions: Sequence[str], answers: Sequence[str], asked: Sequence[str]) -> list[str]:
    """Learn from questions with their labels, and label what is asked; the same for the same rows.

    Features are jieba's words and runs of one to three characters. Raises UserError where the rows hold fewer than two labels.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    known = [answer.strip() for answer in answers]
    if len(set(known)) < 2:
        raise UserError(f"the rows to learn from hold {len(set(known))} labels; a classifier needs two. Give rows of several labels.")
    features = make_union(
        TfidfVectorizer(analyzer=solid_words, sublinear_tf=True),
        TfidfVectorizer(analyzer="char", ngram_range=(1, LONGEST), sublinear_tf=True),
    )
    classifier = make_pipeline(features, LogisticRegression(C=STRENGTH, max_iter=1000))
    classifier.fit(list(questions), known)
    return [str(label) for label in classifier.predict(list(asked))]


def solid_words(text: str) -> list[str]:
    """Jieba's words of a text, without blanks."""
    return [word for word in words(text) if word.strip()]
