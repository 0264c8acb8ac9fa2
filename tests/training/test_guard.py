import gc
import random
import shutil
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import imprint
import imprint.training.run as training
from imprint.cli import main
from imprint.engine.engine import Engine
from imprint.files import read_jsonl
from imprint.loading.load import load
from imprint.model import Model
from imprint.models.network import Network
from imprint.runs import RunFolder
from imprint.training import rescue
from imprint.training.guard import (
    HOPELESS,
    LOWER,
    MUCH_LOWER,
    NOT_FINITE,
    SAME,
    Broken,
    Guard,
    Hopeless,
    Notice,
    Suspicion,
    Verdict,
    broken_answer,
    farewell,
    lowered,
)
from imprint.tune.tuner import Tuner
from tests.tinyrun import log_of, losses, tiny_recipe, tiny_run

ABSURD = [
    "model.path=embedded",
    "optimizer.learning_rate=10",
    "train.steps=16",
    "train.evaluate_every=8",
    "train.watch_prompts=0",
    "tune.prefix_dropout=0.1",
    "train.keep_states=2",
]
PLAIN = ["train.watch_prompts=0", "train.evaluate_every=6"]


def fed(guard: Guard, values: list[float | None], *, first: int = 1, norm: float = 1.0, bad: int = 0) -> Sequence[tuple[int, Verdict]]:
    """What a guard says to losses, with their steps; null is a step that was thrown away, `bad` rows of its four being at fault."""
    found = []
    for step, loss in enumerate(values, first):
        point: dict[str, Any] = {"step": step, "loss": loss, "gradient_norm": norm}
        if loss is None:
            point |= {"skipped_rows": [1, 2, 3, 4], "broken_rows": [1, 2, 3, 4][:bad]}
        if (verdict := guard.see(point)) is not None:
            found.append((step, verdict))
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
            assert not guard.uneasy or noise == 1.0

    def test_a_rough_start_and_a_spike_are_no_explosion(self) -> None:
        bump = [5.0, 5.6, 6.4, 6.8, 7.0, 6.9, 6.6, 6.3, 6.0, 5.5, 5.0, 4.5, 4.0]
        assert fed(Guard(300), [*bump, *[3.0, 3.1] * 15, 30.0, 12.0, 9.0, 3.1, *[3.0, 2.9] * 15]) == []

    def test_losses_that_stay_far_above_the_best_are_suspected_and_the_last_good_step_is_known(self) -> None:
        guard = Guard(3000)
        found = fed(guard, [*[5.0 - 0.05 * step for step in range(40)], *[9.0] * 20])
        assert [(step, type(verdict)) for step, verdict in found] == [(60, Suspicion)]
        suspicion = found[0][1]
        assert isinstance(suspicion, Suspicion)
        assert suspicion.steps == tuple(range(31, 41))
        assert suspicion.before == pytest.approx(3.275)
        assert suspicion.reason == "the loss rose from 3.27 to 9.00"
        assert guard.uneasy
        assert guard.confirmed(suspicion, 8.0, 60) == Broken(
            39, "the loss rose from 3.27 to 9.00, and on the rows of its best steps from 3.27 to 8.00"
        )

    def test_the_same_rows_decide_and_harder_ones_are_forgiven(self) -> None:
        guard = Guard(3000)
        suspicion = fed(guard, [*[3.0, 3.1] * 20, *[9.0, 8.9] * 10])[0][1]
        assert isinstance(suspicion, Suspicion)
        assert guard.confirmed(suspicion, 3.2, 60) is None
        assert (guard.good, guard.uneasy) == (60, False)
        assert fed(guard, [9.0, 9.1] * 9, first=61) == []
        assert isinstance(guard.confirmed(suspicion, float("nan"), 60), Broken)

    def test_short_runs_have_less_patience(self) -> None:
        assert [Guard(steps).patience for steps in (6, 24, 80, 160, 5000)] == [6, 6, 10, 20, 20]

    @pytest.mark.parametrize(("values", "good"), [([5.0, 4.0, 3.0, None], 2), ([5.0, 4.0, 9.0, 9.0, None], 1)])
    def test_a_row_of_steps_that_are_not_finite_goes_back_before_the_last_update(self, values: list[float | None], good: int) -> None:
        guard = Guard(100)
        found = fed(guard, values + [None] * (NOT_FINITE - 1))
        assert found == [(len(values) + NOT_FINITE - 1, Broken(good, f"loss or gradient was not finite {NOT_FINITE} times in a row"))]

    def test_a_poisoned_row_now_and_then_is_of_no_matter(self) -> None:
        values: list[float | None] = [4.0, None, None, 4.0, 3.9, None, 3.8, 3.7, None, None, None]
        assert fed(Guard(100), values, bad=1) == []
        assert fed(Guard(100), values) == []

    def test_rows_that_spoil_every_batch_are_told_and_no_rate_is_lowered_for_them(self) -> None:
        found = fed(Guard(100), [4.0, *[None] * HOPELESS], bad=1)
        assert [step for step, _ in found] == [1 + HOPELESS]
        assert isinstance(found[0][1], Hopeless)
        assert "Take these rows out of the data" in found[0][1].words

    def test_a_base_that_never_gave_a_finite_loss_is_at_fault_itself(self) -> None:
        found = fed(Guard(100), [None] * HOPELESS)
        assert isinstance(found[0][1], Hopeless)
        assert "the base itself cannot be computed" in found[0][1].words
        assert "model.dtype=float32" in found[0][1].words

    def test_a_loss_of_zero_from_the_start_is_explained(self) -> None:
        found = fed(Guard(100), [0.0] * HOPELESS)
        assert isinstance(found[0][1], Hopeless)
        assert "no token of these rows is a target" in found[0][1].words

    def test_a_loss_that_falls_to_zero_at_once_is_broken_and_one_that_came_there_is_known_by_heart(self) -> None:
        assert fed(Guard(100), [4.0, 3.5, 3.4, *[0.0] * HOPELESS]) == [(3 + HOPELESS, Broken(2, "the loss fell from 3.40 to 0 at once"))]
        found = fed(Guard(100), [4.0, 1.0, 0.01, *[0.0] * HOPELESS])
        assert isinstance(found[0][1], Notice)
        assert "known by heart" in found[0][1].words

    @pytest.mark.parametrize(("norm", "why"), [(1.0, "raise optimizer.learning_rate"), (0.0, "no gradient arrives")])
    def test_a_loss_that_never_changes_is_explained_once_and_ends_nothing(self, norm: float, why: str) -> None:
        found = fed(Guard(1000), [4.0] * (3 * SAME), norm=norm)
        assert [step for step, _ in found] == [SAME]
        assert isinstance(found[0][1], Notice)
        assert why in found[0][1].words

    def test_a_tiny_loss_that_never_changes_is_known_by_heart(self) -> None:
        found = fed(Guard(1000), [4.0, 1.0, *[0.001] * (2 * SAME)], norm=1.0)
        assert [type(verdict) for _step, verdict in found] == [Notice]
        assert "known by heart" in found[0][1].words  # type: ignore[union-attr]

    def test_a_guard_that_reads_the_log_again_is_the_one_that_saw_it_come(self) -> None:
        chance = random.Random(3)
        points: list[dict[str, Any]] = []
        for step in range(1, 200):
            loss = None if chance.random() < 0.1 else chance.choice([3.0, 3.2, 9.0 if 60 < step < 120 else 3.1])
            points.append({"step": step, "loss": loss, "gradient_norm": 1.0, "skipped_rows": [1], "broken_rows": [1]})
            if step % 20 == 0:
                points.append({"step": step, "eval_loss": 3.0 + chance.random()})
        samples: list[dict[str, Any]] = [{"step": step, "answer": "很好看" if step < 100 else "哈" * 40} for step in range(20, 200, 20)]
        live = Guard(200)
        for point in points:
            if isinstance(live.see(point), Suspicion):
                live.dismiss(point["step"])
            if "eval_loss" in point:
                live.answers([one["answer"] for one in samples if one["step"] == point["step"]])
        assert vars(Guard.of(points, samples, 200)) == vars(live)


class TestAnswers:
    @pytest.mark.parametrize(
        "text", ["好" * 12, "这件衣服很好看，很好看，很好看，很好看，很好看", "a\ufffdb", "<unk><unk>", " \u2047 好", "12 12 12 12 12 12"]
    )
    def test_endless_repetition_and_unknown_characters_are_seen(self, text: str) -> None:
        assert broken_answer(text)

    @pytest.mark.parametrize(
        "text", ["", "好的", "哈哈哈哈", "这件连衣裙版型宽松，显瘦百搭。", "价格是1000000", "一行字被切断\ufffd", "很好看很好看，买它！"]
    )
    def test_what_people_write_is_no_such_thing(self, text: str) -> None:
        assert not broken_answer(text)

    def test_a_start_that_cannot_talk_yet_is_no_trouble_and_losing_it_is_told_once(self) -> None:
        guard = Guard(100)
        assert guard.answers(["好" * 40]) is None
        assert guard.answers(["这件衣服很好", "好" * 40]) is None
        assert guard.answers([]) is None
        found = guard.answers(["好" * 40, "坏" * 40])
        assert isinstance(found, Notice)
        assert "endless repetition" in found.words
        assert guard.answers(["好" * 40, "坏" * 40]) is None

    def test_together_with_a_far_worse_evaluation_loss_it_is_broken(self) -> None:
        guard = Guard(100)
        guard.answers(["这件衣服很好"])
        for step, loss in ((10, 4.0), (20, 3.0), (30, 5.5)):
            guard.see({"step": step, "eval_loss": loss})
        found = guard.answers(["好" * 40])
        assert isinstance(found, Broken)
        assert found.good == 20
        assert "the evaluation loss rose from 3.00 to 5.50" in found.reason


def test_a_rescue_lowers_the_rate_and_one_from_the_start_much() -> None:
    assert (lowered(1.0, 50), lowered(0.3, 50), lowered(1.0, 0)) == (LOWER, 0.3 * LOWER, MUCH_LOWER)


def test_the_end_of_the_guards_wisdom_names_every_knob_with_its_number() -> None:
    said = farewell("the loss rose from 3.00 to 9.00", rate=0.02, warmup=5, dtype="bfloat16", rows="rows.jsonl:7")
    for words in (
        "optimizer.learning_rate=0.006",
        "optimizer.warmup_steps=20 (now 5)",
        "model.dtype=float32 (now bfloat16)",
        "rows.jsonl:7",
        "学习率",
    ):
        assert words in said
    exact = farewell("the loss rose from 3.00 to 9.00", rate=0.02, warmup=5, dtype="float32", rows="rows.jsonl:7")
    assert "float32" not in exact


# Whole runs


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_recipe(tmp_path_factory.mktemp("guard"))


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch, recipe: Path) -> Callable[[str], None]:
    """Make the loss of every row that holds a text not finite, whatever the weights are."""

    def spoil(text: str) -> None:
        forward = Tuner.forward
        ids = imprint.load(recipe.parent / "base", device="cpu").tokenizer.encode(text)[1:]

        def poisoned(tuner: Tuner, pack: Any) -> Tensor:
            loss = forward(tuner, pack)
            found = pack.ids.tolist()
            return loss * torch.nan if any(found[at : at + len(ids)] == ids for at in range(len(found))) else loss

        monkeypatch.setattr(Tuner, "forward", poisoned)

    return spoil


def test_a_poisoned_batch_and_an_absurd_learning_rate_both_end_in_a_finished_run(
    recipe: Path, spoiled: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    calm = tiny_run(recipe, "absurd", *ABSURD)
    said = capsys.readouterr().out
    assert "The run goes back to its start with a peak learning rate of 1 (rescue 1 of 3" in said
    assert "rows.jsonl:" in said
    assert "finished: 16 of 16 steps are done" in said
    assert [(line["back_to"], line["rate_scale"]) for line in read_jsonl(calm.rescues)] == [(0, MUCH_LOWER)]
    assert max(line["learning_rate"] for line in read_jsonl(calm.log) if "loss" in line) <= 1.0
    before, *_between, last = losses(calm, "eval_loss")
    assert before is not None
    assert last is not None
    assert last < before / 2

    rows = recipe.parent / "poisoned.jsonl"
    rows.write_text((recipe.parent / "rows.jsonl").read_text(encoding="utf-8").replace("长裙", "毒药", 1), encoding="utf-8")
    number = 1 + ["毒药" in line for line in rows.read_text(encoding="utf-8").splitlines()].index(True)
    spoiled("毒药")
    run = tiny_run(recipe, "poisoned", f"data.train={rows}", "data.dev_seed=1", *PLAIN)
    thrown = [line for line in read_jsonl(run.log) if "skipped_rows" in line]
    said = capsys.readouterr().out
    assert len(thrown) == 1
    assert len(thrown[0]["broken_rows"]) == 1
    assert f"step {thrown[0]['step']}: thrown away, the loss of these rows is not finite: {rows}:{number} / " in said
    assert "finished: 6 of 6 steps are done" in said
    assert "1 of 6 steps were thrown away" in said
    assert not run.rescues.exists()


def test_a_run_killed_around_its_rescue_ends_as_one_that_was_not(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiny_run(recipe, "rescued", *ABSURD)
    for name, function, when in (("early", "write_rescue", "before"), ("late", "write_rescue", "after"), ("reload", "prepare", "after")):
        place = training if function == "prepare" else rescue
        real = getattr(place, function)
        calls = 0

        def die(*arguments: Any, real: Any = real, when: str = when, function: str = function) -> Any:
            nonlocal calls
            calls += 1
            if when == "before":
                raise SystemExit
            result = real(*arguments)
            if function == "write_rescue" or calls == 2:
                raise SystemExit
            return result

        monkeypatch.setattr(place, function, die)
        with pytest.raises(SystemExit):
            tiny_run(recipe, f"rescued-{name}", *ABSURD)
        monkeypatch.setattr(place, function, real)
        run = tiny_run(recipe, f"rescued-{name}", *ABSURD)
        assert log_of(run) == log_of(whole)
        assert read_jsonl(run.rescues) == read_jsonl(whole.rescues)


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Nothing but the program itself frees what hangs in a circle."""
    gc.disable()
    yield
    gc.enable()


def test_an_explosion_in_the_middle_goes_back_to_the_last_good_state_and_not_to_a_newer_one(
    recipe: Path, no_collector: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update = Engine.update

    def jolt(engine: Engine, step: int, *, apply: bool) -> tuple[float, bool]:
        done = update(engine, step, apply=apply)
        if step == 10 and engine.lr_scale == 1:
            for parameter in engine.parameters.values():
                parameter.data += 100 * torch.randn_like(parameter)
        return done

    monkeypatch.setattr(Engine, "update", jolt)
    bases: list[weakref.ref[Network]] = []

    def load_alone(*arguments: Any, **options: Any) -> Model:
        assert all(base() is None for base in bases)
        model = load(*arguments, **options)
        bases.append(weakref.ref(model.network))
        return model

    monkeypatch.setattr(training, "load", load_alone)
    knobs = [*ABSURD, "optimizer.learning_rate=0.1", "train.steps=20"]
    run = tiny_run(recipe, "jolted", *knobs)
    assert [(line["back_to"], line["rate_scale"]) for line in read_jsonl(run.rescues)] == [(9, LOWER)]
    assert len(bases) == 2
    assert "The run goes back to the state of step 9 with a peak learning rate of 0.03" in capsys.readouterr().out
    values = losses(run)
    assert len(values) == 20
    assert all(loss is not None and loss < 5 for loss in values)
    rates = [line["learning_rate"] for line in log_of(run) if "loss" in line]
    assert rates[9] < LOWER * rates[8] * 1.01


def test_a_run_that_breaks_again_and_again_ends_with_advice_and_a_guard_that_is_off_never_steps_in(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = Tuner.forward

    def worse(tuner: Tuner, pack: Any) -> Tensor:
        loss = forward(tuner, pack)
        return (
            loss * torch.nan
            if tuner.training and float(next(iter(tuner.trainable_parameters().values())).detach().abs().sum()) > 0
            else loss
        )

    command = [
        "train",
        str(recipe),
        f"output={recipe.parent / 'hopeless'}",
        "tune.start=zeros",
        "tune.prefix_dropout=0",
        *PLAIN,
        "train.steps=12",
    ]
    monkeypatch.setattr(Tuner, "forward", worse)
    assert main(command) == 2
    said = capsys.readouterr()
    assert "and that after 3 times back to a good state and a lower rate. In a new folder set optimizer.learning_rate=" in said.err
    assert "Traceback" not in said.err
    assert len(read_jsonl(RunFolder(recipe.parent / "hopeless").rescues)) == 3
    assert main(command) == 2  # again the same end, and no fourth rescue
    assert len(read_jsonl(RunFolder(recipe.parent / "hopeless").rescues)) == 3
    shutil.rmtree(recipe.parent / "hopeless")
    main([*command, "train.guard=false"])
    assert not RunFolder(recipe.parent / "hopeless").rescues.exists()
