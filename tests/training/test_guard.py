import random
from collections.abc import Sequence

import pytest

from imprint.events import Event
from imprint.messages import Bilingual
from imprint.training.guard import (
    CONSTANT_STEPS,
    HOPELESS_STEPS,
    MAX_NONFINITE_STEPS,
    RATE_FACTOR,
    RESTART_RATE_FACTOR,
    Decision,
    Diverged,
    Guard,
    GuardWarning,
    SpikeSuspected,
    Unrecoverable,
    final_advice,
    is_broken_answer,
    lowered_rate_scale,
)
from tests.logged import evaluation, sample, step


def fed(guard: Guard, values: list[float | None], *, first: int = 1, norm: float = 1.0, bad: int = 0) -> Sequence[tuple[int, Decision]]:
    """What a guard says to losses, with their steps; None is a skipped step, of whose four rows `bad` are at fault."""
    found = []
    for number, loss in enumerate(values, first):
        rows = (1, 2, 3, 4) if loss is None else ()
        if (verdict := guard.observe(step(number, loss, gradient_norm=norm, skipped_rows=rows, broken_rows=rows[:bad]))) is not None:
            found.append((number, verdict))
    return found


class TestLosses:
    @pytest.mark.parametrize("steps", [50, 300, 3000])
    @pytest.mark.parametrize("noise", [0.2, 1.0])
    def test_a_run_that_learns_in_noise_is_never_suspected(self, steps: int, noise: float) -> None:
        for seed in range(10):
            chance = random.Random(seed)
            guard = Guard(steps)
            curve = [2.5 + 3 * 0.98**step + abs(chance.gauss(0, noise)) for step in range(steps)]
            assert fed(guard, list(curve)) == []
            assert not guard.unstable or noise == 1.0

    def test_a_rough_start_and_a_spike_are_no_explosion(self) -> None:
        bump = [5.0, 5.6, 6.4, 6.8, 7.0, 6.9, 6.6, 6.3, 6.0, 5.5, 5.0, 4.5, 4.0]
        assert fed(Guard(300), [*bump, *[3.0, 3.1] * 15, 30.0, 12.0, 9.0, 3.1, *[3.0, 2.9] * 15]) == []

    def test_losses_that_stay_far_above_the_best_are_suspected_and_the_last_good_step_is_known(self) -> None:
        guard = Guard(3000)
        found = fed(guard, [*[5.0 - 0.05 * step for step in range(40)], *[9.0] * 20])
        assert [(step, type(verdict)) for step, verdict in found] == [(60, SpikeSuspected)]
        suspicion = found[0][1]
        assert isinstance(suspicion, SpikeSuspected)
        assert suspicion.steps == tuple(range(31, 41))
        assert suspicion.before == pytest.approx(3.275)
        assert suspicion.reason == "the loss rose from 3.27 to 9.00"
        assert guard.unstable
        assert guard.confirm(suspicion, 8.0, 60) == Diverged(
            39, "the loss rose from 3.27 to 9.00, and on the rows of its best steps from 3.27 to 8.00"
        )

    def test_the_same_rows_decide_and_harder_ones_are_forgiven(self) -> None:
        guard = Guard(3000)
        suspicion = fed(guard, [*[3.0, 3.1] * 20, *[9.0, 8.9] * 10])[0][1]
        assert isinstance(suspicion, SpikeSuspected)
        assert guard.confirm(suspicion, 3.2, 60) is None
        assert (guard.good_step, guard.unstable) == (60, False)
        assert fed(guard, [9.0, 9.1] * 9, first=61) == []
        assert isinstance(guard.confirm(suspicion, float("nan"), 60), Diverged)

    def test_short_runs_have_less_patience(self) -> None:
        assert [Guard(steps).patience for steps in (6, 24, 80, 160, 5000)] == [6, 6, 10, 20, 20]

    @pytest.mark.parametrize(("values", "good"), [([5.0, 4.0, 3.0, None], 2), ([5.0, 4.0, 9.0, 9.0, None], 1)])
    def test_a_row_of_steps_that_are_not_finite_goes_back_before_the_last_update(self, values: list[float | None], good: int) -> None:
        guard = Guard(100)
        found = fed(guard, values + [None] * (MAX_NONFINITE_STEPS - 1))
        assert found == [
            (len(values) + MAX_NONFINITE_STEPS - 1, Diverged(good, f"loss or gradient was not finite {MAX_NONFINITE_STEPS} times in a row"))
        ]

    def test_a_poisoned_row_now_and_then_is_of_no_matter(self) -> None:
        values: list[float | None] = [4.0, None, None, 4.0, 3.9, None, 3.8, 3.7, None, None, None]
        assert fed(Guard(100), values, bad=1) == []
        assert fed(Guard(100), values) == []

    def test_rows_that_spoil_every_batch_are_told_and_no_rate_is_lowered_for_them(self) -> None:
        found = fed(Guard(100), [4.0, *[None] * HOPELESS_STEPS], bad=1)
        assert [step for step, _ in found] == [1 + HOPELESS_STEPS]
        assert isinstance(found[0][1], Unrecoverable)
        assert "Take these rows out of the data" in found[0][1].message.english

    def test_a_base_that_never_gave_a_finite_loss_is_at_fault_itself(self) -> None:
        found = fed(Guard(100), [None] * HOPELESS_STEPS)
        assert isinstance(found[0][1], Unrecoverable)
        assert "the base itself cannot be computed" in found[0][1].message.english
        assert "model.dtype=float32" in found[0][1].message.english

    def test_a_loss_of_zero_from_the_start_is_explained(self) -> None:
        found = fed(Guard(100), [0.0] * HOPELESS_STEPS)
        assert isinstance(found[0][1], Unrecoverable)
        assert "no token of these rows is a target" in found[0][1].message.english

    def test_a_loss_that_falls_to_zero_at_once_is_broken_and_one_that_came_there_is_known_by_heart(self) -> None:
        assert fed(Guard(100), [4.0, 3.5, 3.4, *[0.0] * HOPELESS_STEPS]) == [
            (3 + HOPELESS_STEPS, Diverged(2, "the loss fell from 3.40 to 0 at once"))
        ]
        found = fed(Guard(100), [4.0, 1.0, 0.01, *[0.0] * HOPELESS_STEPS])
        assert isinstance(found[0][1], GuardWarning)
        assert "known by heart" in found[0][1].message.english

    @pytest.mark.parametrize(("norm", "why"), [(1.0, "raise optimizer.learning_rate"), (0.0, "no gradient arrives")])
    def test_a_loss_that_never_changes_is_explained_once_and_ends_nothing(self, norm: float, why: str) -> None:
        found = fed(Guard(1000), [4.0] * (3 * CONSTANT_STEPS), norm=norm)
        assert [step for step, _ in found] == [CONSTANT_STEPS]
        assert isinstance(found[0][1], GuardWarning)
        assert why in found[0][1].message.english

    def test_a_tiny_loss_that_never_changes_is_known_by_heart(self) -> None:
        found = fed(Guard(1000), [4.0, 1.0, *[0.001] * (2 * CONSTANT_STEPS)], norm=1.0)
        assert [type(verdict) for _step, verdict in found] == [GuardWarning]
        assert "known by heart" in found[0][1].message.english  # type: ignore[union-attr]

    def test_a_guard_that_reads_the_log_again_is_the_one_that_saw_it_come(self) -> None:
        chance = random.Random(3)
        live, events = Guard(200), list[Event]()
        for number in range(1, 200):
            loss = None if chance.random() < 0.1 else chance.choice([3.0, 3.2, 9.0 if 60 < number < 120 else 3.1])
            events.append(step(number, loss, gradient_norm=1.0, skipped_rows=(1,), broken_rows=(1,)))
            if isinstance(live.observe(events[-1]), SpikeSuspected):
                live.accept(number)
            if number % 20 == 0:
                events.append(evaluation(number, 3.0 + chance.random()))
                live.observe(events[-1])
                answer = sample(number, "很好看" if number < 100 else "哈" * 40)
                events.append(answer)
                live.observe_answers([answer.answer])
        assert vars(Guard.replay(events, 200)) == vars(live)


class TestAnswers:
    @pytest.mark.parametrize(
        "text", ["好" * 12, "这件衣服很好看，很好看，很好看，很好看，很好看", "a\ufffdb", "<unk><unk>", " \u2047 好", "12 12 12 12 12 12"]
    )
    def test_endless_repetition_and_unknown_characters_are_seen(self, text: str) -> None:
        assert is_broken_answer(text)

    @pytest.mark.parametrize(
        "text", ["", "好的", "哈哈哈哈", "这件连衣裙版型宽松，显瘦百搭。", "价格是1000000", "一行字被切断\ufffd", "很好看很好看，买它！"]
    )
    def test_what_people_write_is_no_such_thing(self, text: str) -> None:
        assert not is_broken_answer(text)

    def test_a_start_that_cannot_talk_yet_is_no_trouble_and_losing_it_is_told_once(self) -> None:
        guard = Guard(100)
        assert guard.observe_answers(["好" * 40]) is None
        assert guard.observe_answers(["这件衣服很好", "好" * 40]) is None
        assert guard.observe_answers([]) is None
        found = guard.observe_answers(["好" * 40, "坏" * 40])
        assert isinstance(found, GuardWarning)
        assert "endless repetition" in found.message.english
        assert guard.observe_answers(["好" * 40, "坏" * 40]) is None

    def test_together_with_a_far_worse_evaluation_loss_it_is_broken(self) -> None:
        guard = Guard(100)
        guard.observe_answers(["这件衣服很好"])
        for number, loss in ((10, 4.0), (20, 3.0), (30, 5.5)):
            guard.observe(evaluation(number, loss))
        found = guard.observe_answers(["好" * 40])
        assert isinstance(found, Diverged)
        assert found.good_step == 20
        assert "the evaluation loss rose from 3.00 to 5.50" in found.reason


def test_a_rescue_lowers_the_rate_and_one_from_the_start_much() -> None:
    assert (lowered_rate_scale(1.0, 50), lowered_rate_scale(0.3, 50), lowered_rate_scale(1.0, 0)) == (
        RATE_FACTOR,
        0.3 * RATE_FACTOR,
        RESTART_RATE_FACTOR,
    )


def test_the_end_of_the_guards_wisdom_names_every_knob_with_its_number() -> None:
    said = final_advice("the loss rose from 3.00 to 9.00", rate=0.02, warmup=5, dtype="bfloat16", rows=Bilingual("rows.jsonl:7", "第 7 行"))
    for words in (
        "optimizer.learning_rate=0.006",
        "optimizer.warmup_steps=20 (now 5)",
        "model.dtype=float32 (now bfloat16)",
        "rows.jsonl:7",
        "学习率",
    ):
        assert words in str(said)
    assert said.chinese.endswith("并检查失控开始时的数据行：第 7 行。")
    exact = final_advice("the loss rose from 3.00 to 9.00", rate=0.02, warmup=5, dtype="float32", rows=Bilingual("rows.jsonl:7", "第 7 行"))
    assert "float32" not in str(exact)
