from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import imprint
from imprint.data.batches import BatchSampler
from imprint.data.dataset import load_splits
from imprint.data.encode import EncodedRow
from imprint.data.section import DataSection
from imprint.engine.async_scalar import AsyncScalar
from imprint.engine.engine import Engine
from imprint.files.atomic import read_jsonl
from imprint.messages import Bilingual, UserError
from imprint.runs import RunFolder
from imprint.training.memory import num_targets
from imprint.training.step import StepBatch, StepBatches
from imprint.tune.tuner import Tuner
from tests.tinyrun import learned_tensors, log_of, losses, tiny_run

ALONE = ["tune.prefix_dropout=0", "train.evaluate_every=6", "train.watch_prompts=0", "train.save_every=6"]


def test_micro_batches_of_any_size_give_the_same_step(recipe: Path) -> None:
    runs = [tiny_run(recipe, f"micro-{size}", *ALONE, "train.batch_size=8", f"train.micro_batch_size={size}") for size in (8, 3, 1)]
    for other in runs[1:]:
        assert losses(other) == pytest.approx(losses(runs[0]), abs=1e-5)
        assert losses(other, "gradient_norm") == pytest.approx(losses(runs[0], "gradient_norm"), rel=1e-3)
        for name, tensor in learned_tensors(runs[0], 6).items():
            assert torch.allclose(learned_tensors(other, 6)[name], tensor, atol=2e-3)
    assert losses(runs[0])[5] != pytest.approx(losses(runs[0])[0], abs=1e-3)  # it moves at all


def test_checkpointing_changes_memory_and_no_number(recipe: Path) -> None:
    off, on = (tiny_run(recipe, f"checkpointing-{on}", "train.steps=3", f"train.checkpointing={on}") for on in ("false", "true"))
    assert losses(on) == pytest.approx(losses(off), abs=1e-6)
    assert all(torch.allclose(learned_tensors(on, 3)[name], tensor, atol=1e-5) for name, tensor in learned_tensors(off, 3).items())


@pytest.fixture(scope="module")
def rows(recipe: Path) -> list[EncodedRow]:
    """The training rows of the recipe."""
    template = imprint.load(recipe.parent / "base", device="cpu").template
    return list(load_splits(DataSection(train=recipe.parent / "rows.jsonl", dev_share=0.2, max_target_length=24), template).train)


@pytest.fixture(scope="module")
def row_losses(recipe: Path, rows: list[EncodedRow]) -> list[tuple[float, int]]:
    """Of each training row the loss summed over its targets, and their number; computed row by row with the prefix as it starts."""
    run = tiny_run(recipe, "start", *ALONE, "train.steps=1", "optimizer.learning_rate=1e-30")
    model = imprint.load(recipe.parent / "base", adapter=run.adapter, device="cpu")
    with torch.no_grad():
        return [(float(model.loss([list(row.ids)], [list(row.labels)])) * num_targets(row), num_targets(row)) for row in rows]


def first_batch(rows: list[EncodedRow], size: int) -> list[int]:
    return BatchSampler([len(row.ids) for row in rows], size, seed=0).batch(1)


@pytest.mark.parametrize(("size", "in_it"), [(8, 3), (19, 19)])  # of 8, 8 and 3 rows the smallest batch comes first here
def test_the_loss_is_the_mean_over_all_target_tokens_of_the_step(
    size: int, in_it: int, recipe: Path, rows: list[EncodedRow], row_losses: list[tuple[float, int]], tmp_path: Path
) -> None:
    run = tiny_run(recipe, str(tmp_path / "run"), *ALONE, "train.steps=1", f"train.batch_size={size}", "train.micro_batch_size=3")
    batch = [row_losses[row] for row in first_batch(rows, size)]
    assert len(batch) == in_it
    assert losses(run) == [pytest.approx(sum(loss for loss, _ in batch) / sum(count for _, count in batch), abs=1e-5)]


def test_micro_batch_average_is_the_mean_of_the_means(
    recipe: Path, rows: list[EncodedRow], row_losses: list[tuple[float, int]], tmp_path: Path
) -> None:
    knobs = ["train.steps=1", "train.batch_size=19", "train.micro_batch_size=8", "train.loss_average=micro_batch"]
    run = tiny_run(recipe, str(tmp_path / "run"), *ALONE, *knobs)
    batch = [row_losses[row] for row in first_batch(rows, 19)]
    means = [sum(loss for loss, _ in part) / sum(count for _, count in part) for part in (batch[:8], batch[8:16], batch[16:])]
    assert losses(run) == [pytest.approx(sum(means) / 3, abs=1e-5)]
    assert sum(means) / 3 != pytest.approx(sum(loss for loss, _ in batch) / sum(count for _, count in batch), abs=1e-4)


def test_an_epoch_is_every_row_once_and_its_last_batch_counts(recipe: Path, tmp_path: Path) -> None:
    batches = BatchSampler(range(19), 4, seed=0)
    first, second = ([batches.batch(step) for step in range(1 + 5 * epoch, 6 + 5 * epoch)] for epoch in range(2))
    for epoch in (first, second):
        assert sorted(row for batch in epoch for row in batch) == list(range(19))
        assert sorted(map(len, epoch)) == [3, 4, 4, 4, 4]
    assert first != second
    knobs = ["train.steps=null", "train.evaluate_every=99", "train.watch_prompts=0", "train.save_every=99"]
    assert len(losses(tiny_run(recipe, str(tmp_path / "one"), *knobs, "train.epochs=1"))) == 5
    assert len(losses(tiny_run(recipe, str(tmp_path / "more"), *knobs, "train.epochs=1.6"))) == 8


# What is not finite


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, set[int]]]:
    """Steps, counted over backward passes, whose loss is not a number or whose gradient is infinite."""
    steps: dict[str, set[int]] = {"loss": set(), "gradient": set()}
    done = 0
    backward, forward = Engine.backward, Tuner.forward

    def bad_forward(tuner: Tuner, pack: Any) -> Tensor:
        loss = forward(tuner, pack)
        return loss * torch.nan if tuner.training and done + 1 in steps["loss"] else loss

    def bad_backward(engine: Engine, loss: Tensor, *, last: bool) -> None:
        nonlocal done
        done += 1
        backward(engine, loss * torch.inf if done in steps["gradient"] else loss, last=last)

    monkeypatch.setattr(Tuner, "forward", bad_forward)
    monkeypatch.setattr(Engine, "backward", bad_backward)
    return iter([steps])


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_told_and_never_reaches_the_weights(
    kind: str, recipe: Path, poisoned: Iterator[dict[str, set[int]]], tmp_path: Path
) -> None:
    next(poisoned)[kind].add(3)
    run = tiny_run(recipe, str(tmp_path / "run"))
    lines = [line for line in read_jsonl(run.log) if "loss" in line]
    assert [line["loss"] is None for line in lines] == [False, False, True, False, False, False]
    assert sorted(lines[2]["skipped_rows"]) == sorted(set(lines[2]["skipped_rows"]))
    assert len(lines[2]["skipped_rows"]) == 4
    before, at, after = (learned_tensors(run, step) for step in (2, 3, 4))
    assert all(torch.equal(before[name], at[name]) for name in before)
    assert any(not torch.equal(at[name], after[name]) for name in at)
    assert all(torch.isfinite(tensor).all() for tensor in learned_tensors(run, 6).values())


# Batches that are made ahead


def test_batches_that_are_made_ahead_change_no_number(recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    knobs = ["train.batch_size=6", "train.micro_batch_size=4", "train.steps=8"]
    ahead = tiny_run(recipe, str(tmp_path / "ahead"), *knobs)
    monkeypatch.setattr(StepBatches, "prepare", lambda batches, step: None)
    plain = tiny_run(recipe, str(tmp_path / "plain"), *knobs)
    assert log_of(ahead) == log_of(plain)
    one, other = (learned_tensors(run, 8) for run in (ahead, plain))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_each_step_but_the_first_is_made_once_and_ahead(recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    order: list[tuple[str, int]] = []
    make, update = StepBatches._make, Engine.update

    def told(batches: StepBatches, step: int) -> StepBatch:
        order.append(("made", step))
        return make(batches, step)

    def updated(engine: Engine, step: int, **how: Any) -> tuple[float, bool]:
        done = update(engine, step, **how)
        order.append(("updated", step))
        return done

    monkeypatch.setattr(StepBatches, "_make", told)
    monkeypatch.setattr(Engine, "update", updated)
    tiny_run(recipe, str(tmp_path / "run"), "train.steps=3")
    assert order == [("made", 1), ("made", 2), ("updated", 1), ("made", 3), ("updated", 2), ("updated", 3)]


def test_a_row_that_cannot_be_packed_is_met_by_its_own_step(recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make = StepBatches._make

    def broken(batches: StepBatches, step: int) -> StepBatch:
        if step == 3:
            raise UserError(Bilingual("a row is broken", "有一行坏了"))
        return make(batches, step)

    monkeypatch.setattr(StepBatches, "_make", broken)
    with pytest.raises(UserError, match="a row is broken"):
        tiny_run(recipe, str(tmp_path / "run"))
    assert len(losses(RunFolder(tmp_path / "run"))) == 2


def test_nothing_is_waited_for_before_the_next_batch_is_made(recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read: list[str] = []
    prepare, number = StepBatches.prepare, AsyncScalar.__float__

    def prepared(batches: StepBatches, step: int) -> None:
        read.append("prepared")
        prepare(batches, step)

    def waited(scalar: AsyncScalar) -> float:
        read.append("read")
        return number(scalar)

    monkeypatch.setattr(StepBatches, "prepare", prepared)
    monkeypatch.setattr(AsyncScalar, "__float__", waited)
    tiny_run(recipe, str(tmp_path / "run"), "train.steps=2")
    assert read == ["prepared", "read", "read", "read"] * 2  # norm, decision, loss
