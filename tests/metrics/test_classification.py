import random
import tracemalloc

import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from imprint.messages import UserError
from imprint.metrics.classification import score_classification
from imprint.metrics.corpus_metric import estimate

LABELS = ("好评", "中评", "差评", "广告")


def drawn(seed: int, count: int = 60) -> tuple[list[str], list[str]]:
    """Labels said and labels wanted; the last label is never wanted."""
    chance = random.Random(seed)
    wanted = [chance.choice(LABELS[:3]) for _ in range(count)]
    return [label if chance.random() < 0.6 else chance.choice(LABELS) for label in wanted], wanted


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_scikit_learn(seed: int) -> None:
    predictions, wanted = drawn(seed)
    found = score_classification(predictions, wanted, LABELS)
    assert found.accuracy.compute() == pytest.approx(100 * accuracy_score(wanted, predictions))
    assert found.macro_f1.compute() == pytest.approx(100 * f1_score(wanted, predictions, average="macro", zero_division=0))
    assert [line[:-1] for line in found.confusion] == confusion_matrix(wanted, predictions, labels=LABELS).tolist()
    precision, recall, f1, rows = precision_recall_fscore_support(wanted, predictions, labels=LABELS, zero_division=0)
    assert [one.precision for one in found.classes] == pytest.approx((100 * precision).tolist())
    assert [one.recall for one in found.classes] == pytest.approx((100 * recall).tolist())
    assert [one.f1 for one in found.classes] == pytest.approx((100 * f1).tolist())
    assert [one.rows for one in found.classes] == rows.tolist()


def test_what_is_no_label_is_wrong_and_counted_apart() -> None:
    found = score_classification(["好评。", "", " 好评\n", "差评"], ["好评", "好评", "好评", "差评"], LABELS[:3])
    assert found.correct == [False, False, True, True]
    assert found.confusion == [[1, 0, 0, 2], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert found.accuracy.compute() == 50
    assert found.macro_f1.compute() == pytest.approx((50 + 100) / 2)  # the label that is nowhere counts for nothing


def test_a_reference_that_is_no_label_is_refused() -> None:
    with pytest.raises(UserError, match=r'hold 2 texts that are no label, as "一般"; the labels are 好评, 中评, 差评\. Name every label'):
        score_classification(["好评"] * 3, ["好评", "一般", "糟糕"], LABELS[:3])


def test_many_rows_of_many_labels_take_little_memory() -> None:
    labels = [f"label {number}" for number in range(80)]
    chance = random.Random(0)
    predictions, wanted = ([chance.choice(labels) for _ in range(5_000)] for _ in range(2))
    tracemalloc.start()
    found = estimate(score_classification(predictions, wanted, labels).macro_f1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.low < found.value < found.high
    assert peak < 50e6  # a table of zeros and ones would be 259 MB
