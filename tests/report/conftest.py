"""A small comparison with everything in it that could break a report."""

from dataclasses import replace
from pathlib import Path

import pytest

from imprint.messages import Bilingual
from imprint.metrics.means import Mean, Summary, gains, summary
from imprint.metrics.rates import FailureRates, failure_rates
from imprint.metrics.scores import score_rows
from imprint.report.comparison import ComparedRow, Comparison
from imprint.report.confusion import Panel, draw_confusion_matrices

TEXTS = (
    # prompt, label, base's answer, tuned answer
    ("类型#上衣*颜色#白色*材质#牛仔布", "白色的牛仔外套很百搭。", "这件上衣的颜色是白色。", "白色的牛仔外套，随手一披就很百搭。"),
    ("第一行\n| 第二行", "雨落在屋檐上，\n像有人敲门。", "<script>window.broken = true</script>| `a` *b*", "雨落在窗上，\n像有人敲门。"),
    ("类型#裤", "裤子很好看。", "裤子很好看。", ""),
    ("你好吗？", "", "我很好。", "<img src=x onerror='window.broken = true'>"),
)
MEANS = (
    {"accuracy": Mean(33.0, 10.0, 50.0), "perplexity": Mean(90.0, 80.0, 99.0)},
    {"accuracy": Mean(66.0, 50.0, 80.0), "perplexity": Mean(2.0, 1.5, 2.5)},
)


@pytest.fixture(scope="session")
def comparison() -> Comparison:
    labels = [label for _, label, _, _ in TEXTS]
    before, after = (score_rows([text[place] for text in TEXTS], labels) for place in (2, 3))
    rows = [ComparedRow(*texts, old.by_metric(), new.by_metric()) for texts, old, new in zip(TEXTS, before, after, strict=True)]
    before_rows, after_rows = before[:3], after[:3]
    return Comparison(
        title="Before & after <b>tuning</b>",
        base_name="demo base",
        tuned_name="runs/demo|1",
        rows=tuple(rows),
        base_summary=summary(before_rows),
        tuned_summary=summary(after_rows),
        base_rates=failure_rates([row.base for row in rows[:3]], unfinished=0),
        tuned_rates=failure_rates([row.tuned for row in rows[:3]], unfinished=None),
        settings={"data": "dev.jsonl", "decoding": "greedy <n>"},
        gains=gains(before_rows, after_rows),
    )


@pytest.fixture(scope="session")
def questions(comparison: Comparison) -> Comparison:
    """The same prompts where nobody gave a reference, answered worse."""
    rows = tuple(replace(row, label="") for row in comparison.rows)
    rates = FailureRates(empty=0.25, repeated=0.5, unfinished=0.75)
    return replace(comparison, rows=rows, base_summary=None, tuned_summary=None, gains={}, tuned_rates=rates)


@pytest.fixture
def classified(comparison: Comparison, tmp_path: Path) -> Comparison:
    """Labels for answers: a baseline beside, a picture, and a metric that is better when it falls."""
    texts = [("包裹呢？", "物流", "价格", "物流"), ("太大了", "尺码", "价格", "价格"), ("真贵", "价格", "价格", "价格")]
    scored = [(row, [{"accuracy": 100.0 * (said == row[1])} for said in row[2:]]) for row in texts]
    rows = tuple(ComparedRow(*row, base, tuned, "accuracy") for row, (base, tuned) in scored)
    before, after = (Summary("labels", 3, 0, means, notes=(Bilingual("accuracy: right", "accuracy：对"),)) for means in MEANS)
    draw_confusion_matrices([Panel("tuned", [[1, 0, 0], [0, 2, 0]])], ("a", "b"), picture := tmp_path / "compare-confusion.png")
    return replace(
        comparison,
        rows=rows,
        base_summary=before,
        tuned_summary=after,
        baseline=after,
        picture=picture,
        gains={"accuracy": Mean(33.0, 5.0, 60.0), "perplexity": Mean(-88.0, -90.0, -80.0)},
    )
