from dataclasses import replace

import pytest

from imprint.events import Finished, Started
from imprint.forgetting.result import Forgetting, ProbeResult
from imprint.report.headline import headline
from imprint.report.run_report import Example, RunReport
from imprint.report.run_scores import EvaluationScores
from tests.logged import evaluation, step


def asked(kept: int, lost: int, wrong: int = 0, *, tuned_loss: float | None = 3.1) -> Forgetting:
    """Answers of which so many are kept and lost, and so many that the base had wrong."""
    pairs = [("对", "对")] * kept + [("对", "错")] * lost + [("错", "错")] * wrong
    rows = tuple(ProbeResult.compare("?", ("对",), *pair) for pair in pairs)
    return Forgetting(rows, 0.02, 100, "probes.jsonl", "neutral.txt", 1.0, 3.0, tuned_loss)


def report(forgetting: Forgetting | None = None, *, losses: tuple[float, ...] = (4.0, 2.9), filled: int | None = None) -> RunReport:
    rows = [] if filled is None else [Example("你是谁？", "我是小墨", "我是小印", "我是小墨" if n < filled else "?") for n in range(40)]
    evaluations = [evaluation(10 * number, loss) for number, loss in enumerate(losses)]
    best = min(range(len(losses)), key=losses.__getitem__) if losses else 0
    ended = Finished(step=20, best_step=10 * best, best_loss=losses[best] if losses else None)
    return RunReport(
        title="x",
        base_name="base",
        method="lora",
        verdict=(),
        events=[Started(step=0, steps=20), *evaluations, step(20, 1.5), ended],
        examples=tuple(rows),
        example_kind="held-out",
        fill_texts=("小墨",),
        forgetting=forgetting,
        recipe="",
        path="runs/x",
    )


def test_new_texts_and_lost_answers_are_one_sentence() -> None:
    found = headline(report(asked(99, 5), filled=39))
    assert (
        found.sentence.english == "39 of 40 held-out questions are answered with the new texts (0 before); 5 of 104 old answers are lost."
    )
    assert found.sentence.chinese == "40 个留出问题中有 39 个的回答含有新内容（微调前 0 个）；原有的 104 个回答丢失 5 个。"
    assert (found.level, found.cures) == ("good", ())


def test_other_runs_have_their_loss() -> None:
    found = headline(report(asked(50, 0)))
    assert found.sentence.english == "Evaluation loss 4.00 -> 2.90; none of 50 old answers is lost."
    assert found.sentence.chinese == "评估损失 4.00 -> 2.90；原有的 50 个回答没有丢失。"
    assert headline(report(asked(49, 1))).sentence.english.endswith("1 of 50 old answers is lost.")


def test_scores_of_an_evaluation_come_before_the_loss() -> None:
    tuned, base = (
        EvaluationScores(name, "rouge-l", 1070, {"rouge-1": 1.0, "rouge-l": value}) for name, value in (("dev", 24.94), ("dev-base", 7.5))
    )
    scored = replace(report(asked(50, 0)), scores=(base, tuned))
    assert headline(scored).sentence.english == "ROUGE-L 7.50 -> 24.94 on 1,070 rows of dev; none of 50 old answers is lost."
    assert headline(replace(scored, scores=(tuned,))).sentence.chinese.startswith("dev 的 1,070 行上 ROUGE-L 24.94；")
    held_out = headline(replace(scored, scores=(replace(tuned, name="held-out"),))).sentence
    assert held_out.english.startswith("ROUGE-L 24.94 on 1,070 held-out rows; ")
    assert held_out.chinese.startswith("1,070 行留出数据上 ROUGE-L 24.94；")
    others = replace(base, rows=3)
    assert "7.50" not in headline(replace(scored, scores=(others, tuned))).sentence.english


@pytest.mark.parametrize(("kept", "lost", "level"), [(90, 10, "good"), (89, 11, "fair"), (70, 30, "fair"), (69, 31, "bad")])
def test_much_loss_is_amber_or_red_and_has_the_cure(kept: int, lost: int, level: str) -> None:
    found = headline(report(asked(kept, lost)))
    assert found.level == level
    assert [cure.english[:13] for cure in found.cures] == ([] if level == "good" else ["much was lost"])
    assert not found.cures or "data.mix_general={}" in found.cures[0].english
    mixed = headline(replace(report(asked(kept, lost)), mixed=True))
    assert not mixed.cures or "data.mix_general.share" in mixed.cures[0].chinese


def test_where_the_base_answers_almost_nothing_the_text_is_the_measure() -> None:
    found = headline(report(asked(2, 0, 58)))
    assert "KL divergence 0.0200 nats a token, loss 3.0000 -> 3.1000" in found.sentence.english
    assert found.level == "fair"
    assert "answers only 2 of 60" in found.cures[0].english
    worse = headline(report(asked(0, 0, 60, tuned_loss=4.0)))
    assert worse.level == "bad"
    assert "much was lost" in worse.cures[1].english
    assert headline(report(asked(0, 0, 60, tuned_loss=None))).level == "bad"


def test_a_run_that_learned_nothing_is_not_good() -> None:
    assert headline(report(asked(50, 0), losses=(4.0, 3.95))).level == "fair"
    assert headline(report(asked(50, 0), losses=(4.0, 4.5))).level == "bad"
    assert headline(report(asked(50, 0), filled=0)).level == "bad"
    few = headline(report(asked(50, 0), filled=20))
    assert few.level == "fair"
    assert "train.steps" in few.cures[0].english


def test_a_score_below_the_base_is_not_good() -> None:
    base, tuned = (EvaluationScores(name, "rouge-l", 9, {"rouge-l": value}) for name, value in (("dev-base", 25.2), ("dev", 21.1)))
    found = headline(replace(report(asked(50, 0)), scores=(base, tuned)))
    assert found.level == "fair"
    assert "`imprint compare`" in found.cures[0].english
    assert headline(replace(report(asked(50, 0)), scores=(replace(base, rows=3), tuned))).level == "good"


def test_what_was_not_measured_is_told_with_the_command() -> None:
    found = headline(report())
    assert found.sentence.english.endswith("what was forgotten has not been measured.")
    assert "`imprint forgetting runs/x`" in found.cures[0].english


def test_a_run_that_has_not_ended_says_so_first() -> None:
    running = report(asked(50, 0), losses=())
    found = headline(replace(running, events=running.events[:-1]))
    assert found.sentence.english.startswith("Not finished, step 20 of 20: training loss 1.50 -> 1.50, and no row was held out; ")
    assert found.sentence.chinese.startswith("尚未完成（第 20 步，共 20 步）：")
    assert headline(replace(running, events=())).sentence.english.startswith("No loss has been logged yet")
