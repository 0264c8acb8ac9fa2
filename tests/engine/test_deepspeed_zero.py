import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from imprint.cli import main
from tests.worlds import RECIPE, Outcome, Start, skip_where_refused, world_folder, world_runs

SHARED = ("zero2", "zero3", "zero3-offload", "zero3-one")
EXACT = [
    ["engine.deepspeed=zero2"],
    ["engine.deepspeed=zero3"],
    ["engine.fsdp=true"],
    ["model.dtype=bfloat16", "engine.deepspeed=zero2"],
    ["model.dtype=float16", "engine.deepspeed=zero2"],
]

pytestmark = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")


@pytest.mark.parametrize("name", SHARED)
def test_losses_are_those_of_one_process(name: str, outcomes: dict[str, Outcome]) -> None:
    alone, shared = outcomes["alone"], outcomes[name]
    assert set(shared.statuses) == {0}, shared.words
    assert len(alone.losses) == 7
    assert shared.losses == pytest.approx(alone.losses, abs=2e-5)
    assert shared.norms == pytest.approx(alone.norms, rel=1e-3)


@pytest.mark.long
def test_a_run_resumes_with_more_and_fewer_processes_and_other_strategies(rarer: tuple[Path, dict[str, Outcome]]) -> None:
    outcomes = rarer[1]
    by_turns = outcomes["by-turns-zero"]
    assert by_turns.statuses == [0], by_turns.words
    assert "resuming after step 3 of 4" in by_turns.words
    assert by_turns.norms == pytest.approx(outcomes["alone"].norms, rel=1e-3)
    assert by_turns.losses[-1] == pytest.approx(outcomes["alone"].losses[-1], abs=2e-5)


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_the_saved_model_is_complete(name: str, folder: Path, outcomes: dict[str, Outcome]) -> None:
    assert set(outcomes[name].statuses) == {0}
    alone, shared = (load_file(folder / run / "model" / "model.safetensors") for run in ("alone", name))
    assert alone.keys() == shared.keys()
    for weight, tensor in alone.items():
        assert float((shared[weight] - tensor).abs().max()) < 2e-3, weight


def test_a_prefix_learns_as_in_one_process(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["zero-prefix"].statuses == [0, 0], outcomes["zero-prefix"].words
    assert outcomes["zero-prefix"].losses == pytest.approx(outcomes["prefix"].losses, abs=2e-5)


@pytest.mark.long
def test_float16_is_scaled_until_its_gradients_fit(rarer: tuple[Path, dict[str, Outcome]]) -> None:
    folder, outcomes = rarer
    skip_where_refused(outcomes["zero-float16"].words)
    assert outcomes["zero-float16"].statuses == [0, 0], outcomes["zero-float16"].words
    assert outcomes["zero-float16"].losses == pytest.approx(outcomes["alone"].losses, abs=0.02)
    assert dtypes_in(folder / "zero-float16") == {torch.float16}


@pytest.mark.parametrize(
    ("dtype", "supported", "sentence"),
    [
        ("float16", ["bfloat16"], 'cannot compute in "float16" on this device (cpu). Set it to bfloat16 or float32; on an old'),
        ("bfloat16", [], 'cannot compute in "bfloat16" on this device (cpu). Set it to float32; on an old command line take --bf16 out'),
        ("bfloat16", ["bfloat16"], "base: there is no such folder"),
        ("float32", [], "base: there is no such folder"),
    ],
)
def test_an_unsupported_dtype_is_refused_before_anything_is_read(
    dtype: str, supported: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    device = SimpleNamespace(is_fp16_supported=lambda: "float16" in supported, is_bf16_supported=lambda: "bfloat16" in supported)
    library = SimpleNamespace(ops=SimpleNamespace(__compatible_ops__={}), accelerator=SimpleNamespace(get_accelerator=lambda: device))
    monkeypatch.setitem(sys.modules, "deepspeed", library)
    for name, value in (("DS_ACCELERATOR", "cpu"), ("LOCAL_RANK", "0")):  # restored after the test
        monkeypatch.setenv(name, value)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(folder=tmp_path), encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1", "response": "2"}\n', encoding="utf-8")
    assert main(["train", str(recipe), f"model.dtype={dtype}", "engine.deepspeed=zero2"]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("knobs", EXACT, ids=lambda knobs: knobs[-1])
def test_a_resumed_run_with_the_same_processes_computes_the_same_values(knobs: list[str], tmp_path: Path) -> None:
    world_folder(tmp_path)
    name = "-".join(knobs).replace("=", "-")
    uninterrupted, _stopped, resumed = world_runs(
        tmp_path, [Start(name, 2, knobs), Start(f"{name}-2", 2, [*knobs, "train.steps=2"]), Start(f"{name}-2", 2, knobs)]
    )
    skip_where_refused(resumed.words)
    assert resumed.statuses == [0, 0], resumed.words
    assert (resumed.losses, resumed.norms) == (uninterrupted.losses, uninterrupted.norms)


def test_the_memory_probe_is_reported_and_changes_nothing(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["zero3-offload"].losses == pytest.approx(outcomes["alone"].losses, abs=2e-5)
    assert "need" in outcomes["zero3-offload"].words
    assert "at their peak" in outcomes["zero3-offload"].words


@pytest.mark.long
def test_a_step_without_a_target_changes_nothing(rarer: tuple[Path, dict[str, Outcome]]) -> None:
    outcomes = rarer[1]
    assert outcomes["zero-empty"].statuses == [0, 0], outcomes["zero-empty"].words
    assert outcomes["zero-empty"].norms[1] == 0
    assert outcomes["zero-empty"].losses[0] == pytest.approx(outcomes["alone"].losses[0], abs=2e-5)


@pytest.mark.long
def test_rarer_settings_give_the_same_losses(rarer: tuple[Path, dict[str, Outcome]]) -> None:
    folder, outcomes = rarer
    assert outcomes["other"].losses == pytest.approx(outcomes["alone"].losses, abs=2e-5), outcomes["other"].words
    for name in ("zero-half", "zero-half-three"):
        assert outcomes[name].losses == pytest.approx(outcomes["half"].losses, abs=0.02), outcomes[name].words
        assert dtypes_in(folder / name) == {torch.bfloat16}
    assert outcomes["lora-two"].losses == pytest.approx(outcomes["lora"].losses, abs=2e-5), outcomes["lora-two"].words
    for name in ("zero1", "zero2-offload", "zero2-probed", "zero3-probed", "fsdp-probed"):
        assert outcomes[name].losses == pytest.approx(outcomes["alone"].losses, abs=2e-5), outcomes[name].words
    assert outcomes["zero-prefix-three"].statuses == [2, 2]
    assert "sharding all weights over processes needs tune.method=full; this is prefix" in outcomes["zero-prefix-three"].words


@pytest.mark.long
@pytest.mark.parametrize(("trick", "count"), [("poisoned", 5), ("empty", 3)])
def test_a_step_that_is_not_finite_in_one_process_or_without_a_target_reaches_no_weight(
    trick: str, count: int, rarer: tuple[Path, dict[str, Outcome]]
) -> None:
    outcomes = {name: outcome for name, outcome in rarer[1].items() if name.startswith(trick)}
    alone = outcomes.pop(trick).losses
    assert len(outcomes) == count
    assert [not loss for loss in alone].count(True) == 1
    for name, outcome in outcomes.items():
        assert set(outcome.statuses) == {0}, outcome.words
        assert [loss or 0 for loss in outcome.losses] == pytest.approx([loss or 0 for loss in alone], abs=2e-5), name


def dtypes_in(run: Path) -> set[torch.dtype]:
    """The dtypes in which the weights of a run's model are stored."""
    return {tensor.dtype for tensor in load_file(run / "model" / "model.safetensors").values()}
