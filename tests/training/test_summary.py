from dataclasses import replace

import pytest

from imprint.events import Event, Finished
from imprint.report.next_steps import next_steps
from imprint.training.summary import PartOfEpoch, RunSummary, next_lines, verdict_messages
from tests.logged import evaluation, step


def summary(*losses: float, every: int = 10, skipped: int = 0, held_out: int = 100) -> RunSummary:
    """Evaluations at step 0, 10, 20 ..."""
    evaluations = [(every * place, loss) for place, loss in enumerate(losses)]
    return RunSummary(evaluations, epochs=2.5, rows=640, held_out=held_out, steps=every * max(1, len(losses) - 1), skipped=skipped)


@pytest.mark.parametrize(
    ("losses", "said", "chinese"),
    [
        ((4.8, 4.0, 3.5, 3.2), "still falling: more steps would help, for instance train.steps=60", "仍在下降"),
        ((4.8, 3.0, 2.6, 2.9, 3.4), "rising since step 20: the rows are being learned by heart", "过拟合"),
        (
            (4.8, 3.0, 2.6, 2.601, 2.6, 2.599, 2.6),
            "it hardly changed in the last third of the steps (2.6 -> 2.6): the run has settled",
            "几乎不变",
        ),
        (
            (8.41, 0.366, 0.137, 0.12),
            "it hardly changed in the last third of the steps (0.137 -> 0.12)",
            "0.137 -> 0.12",
        ),  # the last third is a thousandth of the way
        ((2.0, 3.0, 3.5), "it was best before tuning", "微调前反而最好"),
        ((2.0, 2.0000001, 2.0000001), "hardly better than before tuning", "几乎没有变化"),
        ((4.0, 0.3, 0.0001, 0.00001), "next to nothing is left to learn", "背下来"),
        ((4.0, 3.99, 3.985), "hardly better than before tuning", "几乎没有变化"),
    ],
)
def test_a_verdict_says_where_the_loss_was_heading_and_what_to_try(losses: tuple[float, ...], said: str, chinese: str) -> None:
    lines = verdict_messages(summary(*losses))
    assert len(lines) == 2
    assert lines[1].english.startswith(said)
    assert chinese in lines[1].chinese


def test_a_loss_of_four_is_explained() -> None:
    first = str(verdict_messages(summary(4.8, 4.0))[0])
    assert "evaluation loss 4.80 before tuning -> 4.00 at step 10; each of 640 rows was learned from 2.5 times" in first
    assert "as unsure of each token as of a choice among 55" in first
    assert "评估损失最低 4.00（第 10 步），每行数据学了 2.5 遍" in first
    assert "few" not in first
    assert "5 rows are few" in verdict_messages(summary(4.8, 4.0, held_out=5))[0].english


def test_without_held_out_rows_nothing_is_claimed() -> None:
    lines = verdict_messages(summary())
    assert len(lines) == 1
    assert "no row was held out, so nothing is known about new ones. Set data.dev, or data.dev_share=0.02" in lines[0].english


def test_steps_that_were_thrown_away_are_counted() -> None:
    assert verdict_messages(summary(4.8, 4.0, skipped=3))[-1].english.startswith("3 of 10 steps were skipped")


def test_a_course_is_read_from_the_log() -> None:
    events: list[Event] = [
        evaluation(0, 5.0),
        step(1, 4.0),
        step(2, None, skipped_rows=(1,)),
        evaluation(2, None),
        step(3, 3.0),
        evaluation(3, 3.5),
    ]
    found = RunSummary.from_log(events, rows=10, held_out=4, epochs=1.5, steps=3)
    assert found == RunSummary([(0, 5.0), (3, 3.5)], epochs=1.5, rows=10, held_out=4, steps=3, skipped=1)


def test_better_weights_from_before_a_rescue_are_what_the_verdict_names() -> None:
    events: list[Event] = [evaluation(0, 5.0), evaluation(2, 3.5), Finished(step=4, best_step=3, best_loss=3.0)]
    found = RunSummary.from_log(events, rows=10, held_out=4, epochs=1.5, steps=4)
    assert found.evaluations == [(0, 5.0), (2, 3.5), (3, 3.0)]
    assert "3.00 at step 3" in verdict_messages(found)[0].english


def test_the_end_says_what_to_type_next() -> None:
    lines = next_lines(next_steps("runs/x", "dev.jsonl", held_out=True))
    assert lines[:2] == ["next / 接下来:", "  imprint chat runs/x    talk to it / 与它对话"]


def test_a_run_shorter_than_an_epoch_says_how_many_rows_it_saw_and_advises_all_of_them() -> None:
    short = replace(summary(4.8, 4.0, 3.5, 3.2), steps=20, epochs=0.017, rows=18737, part=PartOfEpoch(320, 1172))
    first, trend = verdict_messages(short)
    assert "320 of 18,737 rows were learned from once; an epoch is 1,172 steps" in first.english
    assert "18,737 行中只学了 320 行，各一遍；一轮是 1,172 步" in first.chinese
    assert "0.0" not in first.line
    assert "train.steps=200, or train.epochs=1 in place of train.steps: every row once, in 58.6 times the time." in trend.english
    assert "train.steps=200，或用 train.epochs=1 代替 train.steps（每行学一遍，用时约 58.6 倍）" in trend.chinese
    nearly = verdict_messages(replace(short, steps=600))[1].english
    assert nearly.endswith("for instance train.epochs=1 in place of train.steps: every row once, in 1.95 times the time.")


def test_answers_are_not_called_rows_where_a_row_holds_several() -> None:
    whole = replace(summary(4.8, 3.5, held_out=6), several_answers=True)
    first = verdict_messages(whole)[0]
    assert "each of 640 answers was learned from 2.5 times" in first.english
    assert "(6 answers are few" in first.english
    assert "每个回答学了 2.5 遍" in first.chinese
    short = verdict_messages(replace(whole, part=PartOfEpoch(320, 40)))[0]
    assert "320 of 640 answers were learned from once" in short.english
    assert "640 个回答中只学了 320 个，各一遍" in short.chinese


def test_who_uses_flags_is_told_flags_and_no_knobs() -> None:
    flags = {"data.dev": "--validation_file FILE", "train.steps": "--max_steps", "optimizer.learning_rate": "--learning_rate"}
    courses = [(), (4.8, 4.0, 3.5, 3.2), (4.8, 3.0, 2.9, 3.4), (2.0, 3.0, 3.5), (4.0, 3.99, 3.985), (4.8, 3.0, 2.6, 2.601, 2.6, 2.6)]
    lines = [message.line for losses in courses for message in verdict_messages(replace(summary(*losses), flags=flags))]
    assert not [line for line in lines if any(knob in line for knob in ("data.dev", "train.steps", "optimizer."))]
    assert "Set --validation_file FILE." in lines[0]
    assert any("--max_steps 60 with the same command" in line for line in lines)
