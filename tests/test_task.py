import pytest

from imprint.config import read_overrides
from imprint.evaluate.section import EvaluateSection
from imprint.messages import UserError
from imprint.metrics.task_scores import TASK_METRICS
from imprint.task import ClassificationTask, TextTask, TranslationTask


def task_of(*overrides: str) -> object:
    return read_overrides(overrides, EvaluateSection).task


def test_a_task_is_chosen_by_its_kind() -> None:
    assert task_of() is None
    assert task_of("task.kind=text") == TextTask(kind="text")
    assert task_of("task.kind=translation") == TranslationTask(kind="translation", tokenizer="zh")
    found = task_of("task.kind=classification", "task.labels=[好评, 差评]")
    assert found == ClassificationTask(kind="classification", labels=("好评", "差评"))


def test_every_kind_has_metrics() -> None:
    with pytest.raises(UserError, match=r"task\.kind=poem: must be one of " + ", ".join(TASK_METRICS)):
        task_of("task.kind=poem")


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ("[好评]", "must be at least 2 long"),
        ("[好评, 好评]", 'holds "好评" twice; name each label once'),
        ("[好评, '']", 'holds ""; a label must be a text without whitespace around it'),
        ("[好评, '差评 ']", 'holds "差评 "; a label must be a text'),
        ("[1, 2]", "must be text, got 1"),
    ],
)
def test_impossible_labels_are_refused(labels: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        task_of("task.kind=classification", f"task.labels={labels}")


def test_a_knob_of_another_task_is_refused() -> None:
    with pytest.raises(UserError, match=r"labels.*is unknown; allowed here: kind, tokenizer"):
        task_of("task.kind=translation", "task.labels=[a, b]")
