import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import imprint
from imprint.cli import main
from imprint.data.encode import EncodedRow
from imprint.engine.engine import Engine
from imprint.engine.section import EngineSection, OptimizerSection
from imprint.engine.world import World
from imprint.files.atomic import read_jsonl
from imprint.messages import Bilingual, UserError
from imprint.models.loss import target_loss
from imprint.runs import RunFolder
from imprint.training.graphs import GradientGraphs
from imprint.training.memory import (
    MicroBatch,
    TokenBudget,
    accumulate_gradients,
    check_disk,
    mean_loss,
    pack_rows,
    probe_memory,
    refuse_small_memory,
)
from imprint.tune.section import PrefixSection
from imprint.tune.tuner import Tuner, build_tuner
from tests.cases import small_network
from tests.tiny import tiny_rows
from tests.tinyrun import losses, tiny_run

KNOBS = ["train.batch_size=8", "train.micro_batch_size=8", "train.evaluate_every=3", "train.watch_prompts=0", "data.dev_share=0.4"]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """A device that holds so many tokens at once; returns the tokens of every pack that it was given."""

    def hold(limit: int, *, message: str = "CUDA out of memory. Tried to allocate 2.00 GiB") -> list[int]:
        seen: list[int] = []
        forward = Tuner.forward

        def narrow(tuner: Tuner, pack: Any) -> Tensor:
            seen.append(len(pack.ids))
            if pack.num_seqs > 0 and len(pack.ids) > limit:
                raise torch.OutOfMemoryError(message)
            return forward(tuner, pack)

        monkeypatch.setattr(Tuner, "forward", narrow)
        return seen

    return hold


def row(length: int, first: int = 10) -> EncodedRow:
    ids = tuple(range(first, first + length))
    return EncodedRow(ids, (-100, -100, *ids[2:]))


def begin(base: Path, dropout: float = 0.0) -> tuple[Tuner, Engine]:
    model = imprint.load(base, device="cpu")
    torch.manual_seed(1)
    tuner = build_tuner(
        model.network, PrefixSection(length=4, start="random", prefix_dropout=dropout), model.tokenizer.encode, checkpointing=False
    )
    engine = Engine.start(tuner, tuner.trainable_parameters(), OptimizerSection(), 10, device=model.device)
    tuner.train()
    return tuner, engine


# Memory


@pytest.mark.parametrize(
    "knobs",
    [
        ["tune.prefix_dropout=0"],
        ["tune.prefix_dropout=0.5"],
        ["tune.prefix_dropout=0.5", "train.loss_average=micro_batch", "train.micro_batch_size=3"],
        ["tune.prefix_dropout=0.1", "train.checkpointing=true"],
    ],
)
def test_a_run_that_runs_out_of_memory_goes_on_in_smaller_pieces_with_the_same_losses(
    knobs: list[str], recipe: Path, memory: Callable[[int], list[int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tiny_run(recipe, str(tmp_path / "whole"), *KNOBS, *knobs, "tune.start=random")
    seen = memory(70)
    capsys.readouterr()
    run = tiny_run(recipe, str(tmp_path / "run"), *KNOBS, *knobs, "tune.start=random")
    said = capsys.readouterr().out
    assert max(seen) > 70 >= seen[-1]
    assert losses(run) == pytest.approx(losses(whole), abs=2e-5)
    assert losses(run, "eval_loss") == pytest.approx(losses(whole, "eval_loss"), abs=2e-5)
    assert losses(run, "gradient_norm") == pytest.approx(losses(whole, "gradient_norm"), rel=2e-3)
    assert "tokens at once. Batch, loss and gradient stay the same" in said
    assert "显存或内存不足" in said
    assert said.count("out of memory with") <= 3  # told when it shrinks, and not at every step


def test_a_run_that_was_killed_after_it_ran_out_of_memory_ends_as_one_that_was_not(
    recipe: Path, memory: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    memory(70)
    whole = tiny_run(recipe, str(tmp_path / "whole"), *KNOBS)
    update = Engine.update

    def die(engine: Engine, step: int, **how: Any) -> tuple[float, bool]:
        if step == 5:
            raise SystemExit
        return update(engine, step, **how)

    monkeypatch.setattr(Engine, "update", die)
    with pytest.raises(SystemExit):
        tiny_run(recipe, str(tmp_path / "run"), *KNOBS)
    monkeypatch.setattr(Engine, "update", update)
    assert losses(tiny_run(recipe, str(tmp_path / "run"), *KNOBS)) == losses(whole)


def test_a_row_that_does_not_fit_by_itself_is_a_sentence_and_the_same_command_goes_on_with_more_memory(
    recipe: Path, memory: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(recipe), f"output={recipe.parent / 'tight'}", *KNOBS, "data.dev_share=0"]
    memory(10)
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "error: out of memory with a single row of" in said
    assert "Set train.checkpointing=true" in said
    assert "Traceback" not in said
    monkeypatch.undo()
    assert main([*command, "train.checkpointing=true"]) == 0


def test_the_gradient_of_pieces_is_that_of_the_whole_and_the_random_numbers_go_on_from_the_same_place(
    recipe: Path, memory: Callable[[int], list[int]]
) -> None:
    parts = [MicroBatch([row(9), row(7, 12), row(5, 14)], 0.5), MicroBatch([row(8, 11)], 2.0)]
    found = []
    for tokens in (None, 12):
        tuner, engine = begin(recipe.parent / "base", dropout=0.3)
        loss = float(accumulate_gradients(tuner, engine, parts, TokenBudget(tokens), print))
        found.append((loss, [parameter.grad for parameter in tuner.trainable_parameters().values()], torch.rand(2)))
    (one, grads, drawn), (other, other_grads, other_drawn) = found
    assert one == pytest.approx(other, abs=1e-5)
    assert torch.equal(drawn, other_drawn)
    for grad, other_grad in zip(grads, other_grads, strict=True):
        assert grad is not None
        assert other_grad is not None
        assert torch.allclose(grad, other_grad, atol=1e-6)
        assert grad.abs().sum() > 0


def test_micro_batches_that_are_computed_as_one_give_the_same_loss_and_gradient(recipe: Path) -> None:
    parts = [MicroBatch([row(9)], 0.5), MicroBatch([row(7, 12), row(5, 14)], 2.0), MicroBatch([row(8, 11)], 1.0)]
    found = []
    for merged, tokens in ((1, None), (2, None), (8, None), (8, 20)):
        tuner, engine = begin(recipe.parent / "base")
        loss = float(accumulate_gradients(tuner, engine, parts, TokenBudget(tokens, merged), print))
        found.append((loss, [parameter.grad for parameter in tuner.trainable_parameters().values()]))
    for loss, grads in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-6)
        for grad, expected in zip(grads, found[0][1], strict=True):
            assert grad is not None
            assert expected is not None
            assert torch.allclose(grad, expected, atol=1e-6)


def test_pieces_hold_neighbours_up_to_the_limit_and_a_row_is_never_cut() -> None:
    rows = [row(5), row(4), row(9), row(1), row(30), row(2)]
    lengths = [[len(one.ids) for one in sub_batch] for sub_batch in TokenBudget(10).split(rows)]
    assert lengths == [[5, 4], [9, 1], [30], [2]]
    assert [len(sub_batch) for sub_batch in TokenBudget().split(rows)] == [6]


def test_the_longest_rows_are_tried_first_and_leave_nothing_behind(
    recipe: Path, memory: Callable[[int], list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    tuner, engine = begin(recipe.parent / "base", dropout=0.3)
    before, budget, told = torch.get_rng_state(), TokenBudget(), list[Bilingual]()
    seen = memory(30)
    probe_memory(tuner, engine, [row(3), row(20), row(9), row(18, 12)], 3, budget, told.append)
    assert seen == [47, 20, 18, 9]
    assert budget.tokens == 23
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in tuner.trainable_parameters().values())
    assert "the longest 3 rows (47 tokens) need" in told[-1].english
    assert "GiB of memory at their peak" in told[-1].english


@pytest.mark.parametrize("adds", [True, False])
def test_the_graph_that_steps_will_repeat_is_the_one_that_is_tried(recipe: Path, monkeypatch: pytest.MonkeyPatch, adds: bool) -> None:  # noqa: FBT001
    monkeypatch.setattr("imprint.training.graphs.WRITTEN_FROM_BYTES", 0)
    tuner, engine = begin(recipe.parent / "base")
    graphs = GradientGraphs(tuner, tuner.trainable_parameters(), lambda: lambda compute: compute)
    rows, count = [row(3), row(20)], 2 if adds else 1
    probe_memory(tuner, engine, rows, 2, TokenBudget(), print, graphs, adds=adds)
    assert graphs.captures == 1
    accumulate_gradients(tuner, engine, [MicroBatch(rows, 1.0)] * count, TokenBudget(), print, graphs)
    assert graphs.captures == 1


def test_an_evaluation_runs_out_of_memory_no_more_than_a_step(recipe: Path, memory: Callable[[int], list[int]]) -> None:
    tuner, engine = begin(recipe.parent / "base")
    rows = [row(9), row(7, 12), row(5, 14)]
    whole = mean_loss(tuner, engine, rows, 3, TokenBudget(), print)
    memory(12)
    assert mean_loss(tuner, engine, rows, 3, TokenBudget(), print) == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize("knobs", [EngineSection(deepspeed="zero3"), EngineSection(fsdp=True)])
def test_a_process_that_shares_with_others_and_runs_out_of_memory_tries_nothing_by_itself(
    knobs: EngineSection, recipe: Path, memory: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tuner, engine = begin(recipe.parent / "base")
    engine.engine_section = knobs
    monkeypatch.setattr(engine.strategy, "replicated", False)
    memory(12)
    rows = [row(9), row(7, 12)]
    works: list[Callable[[], float]] = [
        lambda: float(accumulate_gradients(tuner, engine, [MicroBatch(rows, 1.0)], TokenBudget(), print)),
        lambda: mean_loss(tuner, engine, rows, 2, TokenBudget(), print),
    ]
    for work in works:
        with pytest.raises(
            UserError, match=r"process 0 on cpu ran out of memory with 2 rows \(16 tokens\) at once; what was saved is kept"
        ):
            work()


@pytest.mark.gpu
def test_memory_that_really_runs_out_is_given_back_before_the_next_try(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tiny_rows(recipe.parent / "many.jsonl", 400)
    knobs = ["model.path=embedded", "model.device=cuda", "model.dtype=float32", f"data.train={rows}", "train.watch_prompts=0"]
    knobs += ["train.batch_size=256", "train.micro_batch_size=256", "train.steps=4", "train.evaluate_every=2"]
    whole = tiny_run(recipe, "gpu-whole", *knobs)
    peak = torch.cuda.max_memory_allocated()
    try:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(0.5 * peak / torch.cuda.get_device_properties(0).total_memory)
        capsys.readouterr()
        run = tiny_run(recipe, "gpu-tight", *knobs)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    said = capsys.readouterr().out
    assert losses(run) == pytest.approx(losses(whole), abs=1e-3)
    assert losses(run, "eval_loss") == pytest.approx(losses(whole, "eval_loss"), abs=1e-3)
    assert "Batch, loss and gradient stay the same" in said
    assert said.index("out of memory") < said.index("GiB of memory at their peak")  # before the first step


# Main memory and the disk


def test_main_memory_that_is_too_small_for_the_run_is_told_before_it_begins() -> None:
    billions = 6_170_000_000
    cpu = torch.device("cpu")
    refuse_small_memory(billions, 534_642_688, cpu, World(), (128 * 2**30, 110 * 2**30), offload=True)
    with pytest.raises(UserError) as told:
        refuse_small_memory(billions, 534_642_688, cpu, World(), (64 * 2**30, 60 * 2**30), offload=True)
    assert str(told.value).startswith("main memory: training and saving need 95.7 GiB, 60.0 of 64.0 GiB are free.")
    assert "engine.offload takes 16 bytes per trained parameter" in str(told.value)
    refuse_small_memory(billions, 534_642_688, cpu, World(), (64 * 2**30, 60 * 2**30))


def test_a_disk_that_will_not_hold_the_run_is_told_before_it_begins(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuner, _engine = begin(recipe.parent / "base")
    numbers = sum(parameter.numel() for parameter in tuner.trainable_parameters().values())
    weights = 4 * numbers

    def free(count: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, count))

    run = RunFolder(tmp_path)
    free(100 * weights)
    assert check_disk(run, numbers, weights, 2) is None
    free(8 * weights)
    assert "may be needed with train.keep_states=2" in str(check_disk(run, numbers, weights, 2))
    free(3 * weights)
    with pytest.raises(UserError, match=r"GiB are free\. Free some space, or choose a folder on another disk"):
        check_disk(run, numbers, weights, 2)
    assert main(["train", str(recipe), f"output={recipe.parent / 'full'}"]) == 2
    assert "GiB are free" in capsys.readouterr().err
    assert not (recipe.parent / "full").exists()
    free(10**9)
    assert read_jsonl(tiny_run(recipe, "full", "train.steps=1").log)


# Texts that share a row


def shared_row(*texts: tuple[int, ...]) -> EncodedRow:
    """Texts laid into one row."""
    ids: list[int] = []
    labels: list[int] = []
    starts: list[int] = []
    for text in texts:
        starts.append(len(ids))
        ids += [*text]
        labels += [-100, *text[1:]]
    return EncodedRow(tuple(ids), tuple(labels), sequence_starts=tuple(starts[1:]))


def test_the_loss_of_a_text_does_not_depend_on_its_neighbours() -> None:
    network = small_network()
    marks = (network.config.special_ids.gmask, network.config.special_ids.sop)
    texts = [(*marks, *range(first, first + length)) for first, length in ((1, 7), (9, 12), (22, 4))]

    @torch.no_grad()
    def loss(row: EncodedRow) -> float:
        batch = pack_rows([row], network)
        return float(target_loss(network(batch)[batch.targets], network.head_weight, batch.labels))

    alone = [loss(shared_row(text)) for text in texts]
    assert loss(shared_row(*texts)) == pytest.approx(sum(alone), rel=1e-6)
    for neighbour in (texts[1], texts[2], (*marks, *range(30, 5, -1))):
        assert loss(shared_row(neighbour, texts[0])) - loss(shared_row(neighbour)) == pytest.approx(alone[0], rel=1e-5)
    unparted = EncodedRow((*texts[0], *texts[1]), (-100, *texts[0][1:], -100, *texts[1][1:]))
    assert abs(loss(unparted) - sum(alone[:2])) > 1


def test_a_text_leaves_the_same_gradient_alone_and_in_company(recipe: Path) -> None:
    texts = [tuple(range(first, first + length)) for first, length in ((10, 7), (30, 12), (60, 4))]
    found = []
    for rows in ([shared_row(*texts)], [shared_row(text) for text in texts]):
        tuner, engine = begin(recipe.parent / "base")
        engine = Engine.start(tuner, tuner.trainable_parameters(), OptimizerSection(), 1, device=engine.device)
        accumulate_gradients(tuner, engine, [MicroBatch(rows, 1.0)], TokenBudget(), print)
        found.append([parameter.grad.clone() for parameter in tuner.trainable_parameters().values() if parameter.grad is not None])
    assert found[0]
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*found, strict=True))
