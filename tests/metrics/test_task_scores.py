import math

import pytest

from imprint.messages import UserError
from imprint.metrics.means import gains, summary
from imprint.metrics.scores import score_rows
from imprint.metrics.task_scores import METRIC_BY_NAME, TASK_METRICS, Likelihood, score_by_protocol, score_task, task_gains
from imprint.metrics.translation import score_translation
from imprint.task import ClassificationTask, CodeCommentsTask, ContinuationTask, SummaryTask, Task, TextTask, TranslationTask

SAID = ["白色的外套很百搭。", "", "好看的裙子。", "返回a与b的和"]
WANTED = ["这件白色的外套很百搭。", "红色围巾。", "好看的裙子。", "返回a和b的和"]
TASKS: tuple[Task, ...] = (TextTask(), SummaryTask(), TranslationTask(), ContinuationTask(), CodeCommentsTask())


@pytest.mark.parametrize("task", TASKS, ids=lambda task: str(task.kind))
def test_every_task_has_its_metrics_with_intervals(task: Task) -> None:
    known = [Likelihood(-3.0, 3)] * len(SAID)
    found = score_task(task, SAID, WANTED, likelihoods=known)
    assert tuple(found.summary.means) == TASK_METRICS[task.kind]
    assert all(mean.low <= mean.value <= mean.high for mean in found.summary.means.values())
    assert all(name in METRIC_BY_NAME for name in found.summary.means)
    assert found.summary.rows == len(found.row_scores) == 4
    assert found.summary.empty == 1
    assert found.row_scores[1] == dict.fromkeys(found.row_scores[1], 0.0)
    assert found.row_metric in found.row_scores[0]


@pytest.mark.parametrize("task", [*TASKS, ClassificationTask(labels=("好", "坏"))], ids=lambda task: str(task.kind))
def test_answers_without_their_references_are_refused(task: Task) -> None:
    with pytest.raises(UserError, match="2 predictions cannot be scored against 1 references"):
        score_task(task, ["好", "坏"], ["好"])
    with pytest.raises(UserError, match="nothing to score"):
        score_task(task, [], [])


def test_text_is_scored_as_before_there_were_tasks() -> None:
    rows = score_rows(SAID, WANTED, "words")
    found = score_task(TextTask(), SAID, WANTED, protocol="words")
    assert found.summary == summary(rows, "words")
    better = score_task(TextTask(), WANTED, WANTED, protocol="words")
    assert task_gains(found, better) == gains(rows, score_rows(WANTED, WANTED, "words"))


def test_a_translation_has_sacrebleu_s_signatures() -> None:
    found = score_task(TranslationTask(tokenizer="13a"), SAID, WANTED)
    assert found.summary.protocol == "sacrebleu-13a"
    assert found.signatures == score_translation(SAID, WANTED, "13a").signatures


def test_a_classification_has_classes() -> None:
    task = ClassificationTask(kind="classification", labels=("好", "坏"))
    found = score_task(task, ["好", "坏", "好"], ["好", "坏", "坏"])
    assert found.summary.means["accuracy"].value == pytest.approx(200 / 3)
    assert found.classes is not None
    assert found.classes.confusion == [[1, 0, 0], [1, 1, 0]]
    assert [row["accuracy"] for row in found.row_scores] == [100, 100, 0]


def test_perplexity_is_of_all_tokens_together_and_better_when_lower() -> None:
    found = score_task(
        ContinuationTask(), SAID[:2], WANTED[:2], likelihoods=[Likelihood(math.log(0.5), 1), Likelihood(3 * math.log(0.25), 3)]
    )
    assert found.summary.means["perplexity"].value == pytest.approx(2 ** (7 / 4))
    assert METRIC_BY_NAME["perplexity"].lower_is_better
    without = score_task(ContinuationTask(), SAID, WANTED)
    assert tuple(without.summary.means) == ("rouge-l",)


def test_exact_answers_may_differ_in_blanks_and_width() -> None:
    found = score_task(CodeCommentsTask(), ["返回a, b的和 ", ""], ["返回a，b的和", ""])
    assert found.summary.means["exact"].value == 50


def test_a_gain_is_told_for_every_metric_in_the_order_of_the_table() -> None:
    before, after = (score_task(CodeCommentsTask(), said, WANTED) for said in (SAID, WANTED))
    found = task_gains(before, after)
    assert tuple(found) == TASK_METRICS["code_comments"]
    assert found["exact"].value == 75
    with pytest.raises(UserError, match="4 rows before and 3 after"):
        task_gains(before, score_task(CodeCommentsTask(), SAID[:3], WANTED[:3]))


def test_texts_are_no_labels() -> None:
    texts = [f"text {number}" for number in range(1001)]
    with pytest.raises(UserError, match=r"the references hold 1,001 different texts, more than 1,000\. Are they labels\?"):
        score_by_protocol("labels", texts, texts)
