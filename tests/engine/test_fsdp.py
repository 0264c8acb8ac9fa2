import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from imprint.events import read_events
from imprint.messages import UserError
from imprint.runs import RunFolder
from imprint.training.run import train
from tests.engine.conftest import LORA, PREFIX
from tests.worlds import Outcome, losses_of


def test_losses_are_those_of_one_process(outcomes: dict[str, Outcome]) -> None:
    alone, shared = outcomes["alone"], outcomes["fsdp"]
    assert shared.statuses == [0, 0], shared.words
    assert len(alone.losses) == 7
    assert shared.losses == pytest.approx(alone.losses, abs=2e-5)
    assert shared.norms == pytest.approx(alone.norms, rel=1e-3)


def test_a_run_resumes_with_more_and_fewer_processes(outcomes: dict[str, Outcome]) -> None:
    by_turns = outcomes["by-turns"]
    assert by_turns.statuses == [0], by_turns.words
    assert "resuming after step 2 of 3" in by_turns.words
    assert by_turns.norms == pytest.approx(outcomes["alone"].norms[:3], rel=1e-3)


@pytest.mark.long
def test_the_saved_model_is_complete_and_in_the_dtype_of_the_recipe(rarer: tuple[Path, dict[str, Outcome]]) -> None:
    folder, outcomes = rarer
    assert outcomes["fsdp-half"].losses == pytest.approx(outcomes["half"].losses, abs=0.02), outcomes["fsdp-half"].words
    half, shared = (load_file(folder / run / "model" / "model.safetensors") for run in ("half", "fsdp-half"))
    assert {tensor.dtype for tensor in shared.values()} == {torch.bfloat16}
    assert all(shared[weight].shape == tensor.shape for weight, tensor in half.items())


def test_a_frozen_base_is_not_sharded(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["fsdp-prefix"].statuses == [2]
    assert "sharding all weights over processes needs tune.method=full; this is prefix" in outcomes["fsdp-prefix"].words


@pytest.mark.parametrize("knob", ["engine.fsdp=true", "engine.deepspeed=zero3"])
def test_that_is_refused_before_the_base_is_read(knob: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("output: run\nmodel: {path: nowhere}\ndata: {train: rows.jsonl}\ntune: {method: lora}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"needs tune\.method=full; this is lora"):
        train(recipe, [knob])


@pytest.mark.gpu
@pytest.mark.long
@pytest.mark.parametrize("strategy", ["engine.fsdp=true", "engine.deepspeed=zero2", "engine.deepspeed=zero3", "engine.deepspeed=null"])
def test_two_gpus_learn_as_one(strategy: str, folder: Path) -> None:
    one, two = losses_on_gpus(strategy, folder)
    assert two == pytest.approx(one, abs=5e-3)  # TF32 products


@pytest.mark.gpu
@pytest.mark.long
@pytest.mark.parametrize("method", [PREFIX, LORA])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_gpus_learn_an_adapter_as_one(method: str, dtype: str, folder: Path) -> None:
    one, two = losses_on_gpus("engine.deepspeed=null", folder, method, dtype)
    assert two == pytest.approx(one, abs=5e-3 if dtype == "float32" else 0.03)


def losses_on_gpus(strategy: str, folder: Path, method: str = "tune={method: full}", dtype: str = "float32") -> list[list[float | None]]:
    """The losses of a run on one GPU, and those on two."""
    if torch.cuda.device_count() < 2:
        pytest.skip("there are fewer than two GPUs")
    if "zero" in strategy and importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")
    losses = []
    for count in (1, 2):
        name = re.sub(r"\W+", "-", f"gpus-{count}-{strategy}-{method}-{dtype}")
        command = [sys.executable, "-m", "imprint", "train", str(folder / "recipe.yaml"), f"output={folder / name}", "model.device=null"]
        knobs = [method, f"model.dtype={dtype}", f"engine.processes={count}", *([strategy] if count > 1 else [])]
        process = subprocess.run([*command, *knobs], capture_output=True, encoding="utf-8", check=False)
        assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-2000:]
        assert " on cuda" in process.stdout + process.stderr
        losses.append(losses_of(read_events(RunFolder(folder / name))))
    assert len(losses[0]) == 7
    return losses
