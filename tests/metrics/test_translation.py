import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from imprint.metrics.corpus_metric import estimate
from imprint.metrics.translation import score_translation

SAID = ["她买了一件红色外套。", "", "这顶帽子很保暖。", "我们卖了一只蓝色的包包"]
WANTED = ["今天她买了一件红色外套。", "他洗了一条围巾。", "这顶帽子非常保暖。", "我们卖了一只蓝色包包。"]


@pytest.mark.parametrize("tokenizer", ["zh", "13a", "intl", "char"])
def test_sums_of_rows_are_what_sacrebleu_says_of_the_file(tokenizer: str) -> None:
    found = score_translation(SAID, WANTED, tokenizer)
    assert found.bleu.compute() == pytest.approx(BLEU(tokenize=tokenizer).corpus_score(SAID, [WANTED]).score)
    assert found.chrf.compute() == pytest.approx(CHRF().corpus_score(SAID, [WANTED]).score)


def test_rows_alone_are_what_sacrebleu_says_of_a_sentence() -> None:
    found = score_translation(SAID, WANTED, "zh")
    bleu = BLEU(tokenize="zh", effective_order=True)
    wanted = [
        {"bleu": bleu.sentence_score(prediction, [label]).score, "chrf": CHRF().sentence_score(prediction, [label]).score}
        for prediction, label in zip(SAID, WANTED, strict=True)
    ]
    assert found.rows == [pytest.approx(row) for row in wanted]


def test_an_empty_answer_scores_nothing_and_counts() -> None:
    found = score_translation(SAID, WANTED, "zh")
    without = score_translation([SAID[0], *SAID[2:]], [WANTED[0], *WANTED[2:]], "zh")
    assert found.rows[1] == {"bleu": 0.0, "chrf": 0.0}
    assert found.bleu.compute() < without.bleu.compute()
    assert found.chrf.compute() < without.chrf.compute()
    assert score_translation([""], ["好"], "zh").bleu.compute() == 0


def test_the_signatures_say_what_the_scores_depend_on() -> None:
    assert score_translation(SAID, WANTED, "zh").signatures["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:zh|smooth:exp|version:")
    assert "nc:6|nw:0" in score_translation(SAID, WANTED, "13a").signatures["chrf"]


def test_the_interval_lies_around_the_score() -> None:
    found = estimate(score_translation(SAID * 10, WANTED * 10, "zh").bleu)
    assert found.low < found.value < found.high
