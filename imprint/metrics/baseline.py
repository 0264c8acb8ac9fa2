"""A classical baseline for classification: TF-IDF with logistic regression, in a second and without a GPU."""

from collections.abc import Sequence
from typing import Final

from imprint.messages import Bilingual, UserError
from imprint.metrics.tokens import segment

BASELINE: Final = "TF-IDF + logistic regression"
"""Its name in tables."""
MAX_NGRAM: Final = 3
"""Longest character n-gram."""
INVERSE_REGULARIZATION: Final = 10.0
"""`C` of logistic regression; scikit-learn's default 1.0 is too strong for TF-IDF rows, whose norm is one."""


def baseline_predictions(questions: Sequence[str], answers: Sequence[str], test_questions: Sequence[str]) -> list[str]:
    """Train on questions with their labels and predict labels of `test_questions`; deterministic.

    Features are jieba's words and character n-grams of length one to three. Raises UserError for fewer than two labels.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    labels = [answer.strip() for answer in answers]
    if len(set(labels)) < 2:
        count = len(set(labels))
        raise UserError(
            Bilingual(
                f"the training rows hold {count} labels; a classifier needs two. Give rows of several labels.",
                f"训练数据中只有 {count} 种标签，分类至少需要两种。请给出含多种标签的数据。",
            )
        )
    features = make_union(
        TfidfVectorizer(analyzer=nonblank_words, sublinear_tf=True),
        TfidfVectorizer(analyzer="char", ngram_range=(1, MAX_NGRAM), sublinear_tf=True),
    )
    classifier = make_pipeline(features, LogisticRegression(C=INVERSE_REGULARIZATION, max_iter=1000))
    classifier.fit(list(questions), labels)
    return [str(label) for label in classifier.predict(list(test_questions))]


def nonblank_words(text: str) -> list[str]:
    """Jieba's words of a text without blank ones."""
    return [word for word in segment(text) if word.strip()]
