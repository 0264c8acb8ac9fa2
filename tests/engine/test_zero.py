import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.crews import Outcome, Start, crew_folder, crew_runs

FILE = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0, "overlap_comm": "auto"}, "fp16": {"enabled": "auto"}}
SHARED = {
    "zero1": ["engine.deepspeed=zero1"],
    "zero2": ["engine.deepspeed=zero2"],
    "zero3": ["engine.deepspeed=ds.json"],  # by its file no weight, however small, stays whole
    "offload2": ["engine.deepspeed=zero2", "engine.offload=true"],
    "offload3": ["engine.deepspeed=zero3", "engine.offload=true"],
}
PREFIX = "tune={method: prefix, length: 4, start: random}"
BEGUN = ["train.steps=2"]
STARTS = [
    Start("alone", 1),
    *[Start(name, 2, knobs) for name, knobs in SHARED.items()],
    Start("one", 1, ["engine.deepspeed=zero3"]),
    Start("fewer", 2, [*SHARED["zero2"], *BEGUN]),
    Start("fewer", 1),
    Start("more", 1, BEGUN),
    Start("more", 2, SHARED["zero3"]),
    Start("prefix", 1, [PREFIX, *BEGUN]),
    Start("prefix-two", 2, [PREFIX, *BEGUN, *SHARED["zero2"]]),
    Start("half", 1, ["model.dtype=bfloat16"]),
    Start("half-two", 2, ["model.dtype=bfloat16", *SHARED["zero2"]]),
    Start("float16", 2, ["model.dtype=float16", *SHARED["zero2"]]),
]
RARER = [
    Start("other", 2, [*SHARED["zero3"], *BEGUN]),
    Start("other", 2, SHARED["offload2"]),
    Start("prefix-three", 2, [PREFIX, *SHARED["zero3"]]),
    Start("half-three", 2, ["model.dtype=bfloat16", *SHARED["zero3"]]),
    Start("lora", 1, ["tune={method: lora, rank: 2}"]),
    Start("lora-two", 2, ["tune={method: lora, rank: 2}", *SHARED["zero1"]]),
]
EXACT = [
    ["engine.deepspeed=zero2"],
    ["engine.deepspeed=zero3"],
    ["engine.fsdp=true"],
    ["model.dtype=bfloat16", "engine.deepspeed=zero2"],
    ["model.dtype=float16", "engine.deepspeed=zero2"],
]

pytestmark = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero")
    crew_folder(folder)
    (folder / "ds.json").write_text(json.dumps(FILE), encoding="utf-8")
    return folder


def made(folder: Path, starts: Sequence[Start]) -> dict[str, Outcome]:
    """What came of each run, of its last start."""
    placed = [replace(one, overrides=[knob.replace("ds.json", str(folder / "ds.json")) for knob in one.overrides]) for one in starts]
    return {one.name: found for one, found in zip(starts, crew_runs(folder, placed), strict=True)}


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, Outcome]:
    return made(folder, STARTS)


@pytest.fixture(scope="module")
def rarer(folder: Path) -> dict[str, Outcome]:
    return made(folder, RARER)


@pytest.mark.parametrize("name", [*SHARED, "one"])
def test_losses_are_those_of_one_process(name: str, outcomes: dict[str, Outcome]) -> None:
    alone, shared = outcomes["alone"], outcomes[name]
    assert set(shared.statuses) == {0}, shared.words
    assert len(alone.losses) == 7
    assert shared.losses == pytest.approx(alone.losses, abs=2e-5)
    assert shared.norms == pytest.approx(alone.norms, rel=1e-3)


@pytest.mark.parametrize("name", ["fewer", "more"])
def test_a_run_goes_on_with_fewer_or_more_processes(name: str, outcomes: dict[str, Outcome]) -> None:
    assert set(outcomes[name].statuses) == {0}, outcomes[name].words
    assert "going on after step 2 of 4" in outcomes[name].words
    assert outcomes[name].losses == pytest.approx(outcomes["alone"].losses, abs=2e-5)


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_the_model_that_is_written_is_whole(name: str, folder: Path, outcomes: dict[str, Outcome]) -> None:
    assert set(outcomes[name].statuses) == {0}
    alone, shared = (load_file(folder / run / "model" / "model.safetensors") for run in ("alone", name))
    assert alone.keys() == shared.keys()
    for weight, tensor in alone.items():
        assert float((shared[weight] - tensor).abs().max()) < 2e-3, weight


def test_a_prefix_learns_as_in_one_process(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["prefix-two"].statuses == [0, 0], outcomes["prefix-two"].words
    assert outcomes["prefix-two"].losses == pytest.approx(outcomes["prefix"].losses, abs=2e-5)


def test_16_bit_weights_learn_as_in_one_process(folder: Path, outcomes: dict[str, Outcome]) -> None:
    assert outcomes["half-two"].statuses == [0, 0], outcomes["half-two"].words
    assert outcomes["half-two"].losses == pytest.approx(outcomes["half"].losses, abs=0.02)
    assert types_in(folder / "half-two") == {torch.bfloat16}


def test_float16_is_scaled_until_its_gradients_fit(folder: Path, outcomes: dict[str, Outcome]) -> None:
    assert outcomes["float16"].statuses == [0, 0], outcomes["float16"].words
    assert outcomes["float16"].losses == pytest.approx(outcomes["alone"].losses, abs=0.02)
    assert types_in(folder / "float16") == {torch.float16}


@pytest.mark.long
@pytest.mark.parametrize("knobs", EXACT, ids=lambda knobs: knobs[-1])
def test_a_run_that_stops_and_goes_on_with_the_same_processes_computes_the_same_numbers(knobs: list[str], folder: Path) -> None:
    name = "-".join(knobs).replace("=", "-")
    whole, _begun, gone_on = crew_runs(
        folder, [Start(name, 2, knobs), Start(f"{name}-2", 2, [*knobs, *BEGUN]), Start(f"{name}-2", 2, knobs)]
    )
    assert gone_on.statuses == [0, 0], gone_on.words
    assert (gone_on.losses, gone_on.norms) == (whole.losses, whole.norms)


@pytest.mark.long
def test_rarer_ways_lead_there_too(folder: Path, outcomes: dict[str, Outcome], rarer: dict[str, Outcome]) -> None:
    assert rarer["other"].losses == pytest.approx(outcomes["alone"].losses, abs=2e-5), rarer["other"].words
    assert rarer["half-three"].losses == pytest.approx(outcomes["half"].losses, abs=0.02), rarer["half-three"].words
    assert rarer["lora-two"].losses == pytest.approx(rarer["lora"].losses, abs=2e-5), rarer["lora-two"].words
    assert types_in(folder / "half-three") == {torch.bfloat16}
    assert rarer["prefix-three"].statuses == [2, 2]
    assert "to share all weights between processes is offered for tune.method=full; this is prefix" in rarer["prefix-three"].words


def types_in(run: Path) -> set[torch.dtype]:
    """In which types the weights of a run's model are stored."""
    return {tensor.dtype for tensor in load_file(run / "model" / "model.safetensors").values()}
