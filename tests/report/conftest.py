"""A small comparison with everything in it that could break a report."""

from dataclasses import replace

import pytest

from imprint.metrics import Rates, gains, rates_of, score_rows, summary
from imprint.report import Compared, Comparison

TEXTS = (
    # prompt, label, base's answer, tuned answer
    ("类型#上衣*颜色#白色*材质#牛仔布", "白色的牛仔外套很百搭。", "这件上衣的颜色是白色。", "白色的牛仔外套，随手一披就很百搭。"),
    ("第一行\n| 第二行", "雨落在屋檐上，\n像有人敲门。", "<script>window.broken = true</script>| `a` *b*", "雨落在窗上，\n像有人敲门。"),
    ("类型#裤", "裤子很好看。", "裤子很好看。", ""),
    ("你好吗？", "", "我很好。", "<img src=x onerror='window.broken = true'>"),
)


@pytest.fixture(scope="session")
def comparison() -> Comparison:
    labels = [label for _, label, _, _ in TEXTS]
    before, after = (score_rows([text[place] for text in TEXTS], labels) for place in (2, 3))
    rows = [Compared(*texts, old.by_metric(), new.by_metric()) for texts, old, new in zip(TEXTS, before, after, strict=True)]
    before_rows, after_rows = before[:3], after[:3]
    return Comparison(
        title="Before & after <b>tuning</b>",
        base_name="demo base",
        tuned_name="runs/demo|1",
        rows=tuple(rows),
        base_summary=summary(before_rows),
        tuned_summary=summary(after_rows),
        base_rates=rates_of([row.base for row in rows[:3]], unfinished=0),
        tuned_rates=rates_of([row.tuned for row in rows[:3]], unfinished=None),
        facts={"data": "dev.jsonl", "decoding": "greedy <n>"},
        gains=gains(before_rows, after_rows),
    )


@pytest.fixture(scope="session")
def questions(comparison: Comparison) -> Comparison:
    """The same prompts where nobody gave a reference, answered worse."""
    rows = tuple(replace(row, label="") for row in comparison.rows)
    rates = Rates(empty=0.25, repeated=0.5, unfinished=0.75)
    return replace(comparison, rows=rows, base_summary=None, tuned_summary=None, gains={}, tuned_rates=rates)
