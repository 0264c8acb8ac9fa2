from dataclasses import replace
from pathlib import Path

import pytest
import torch

from imprint.cli import main
from imprint.config import read_recipe
from imprint.forecast.cards import find_card
from imprint.forecast.run import RunForecast
from imprint.kernels import available
from imprint.messages import Bilingual
from imprint.training import fit_command
from imprint.training.fit import plan_run
from imprint.training.fit_command import own_gpu, what_fits
from imprint.training.recipe import Recipe
from tests.forecast.test_run import forecast as forecast
from tests.training.test_fit import folder as folder

__all__ = ["folder", "forecast"]


def with_gpu(monkeypatch: pytest.MonkeyPatch, gibibytes: float, capability: tuple[int, int] = (9, 0), name: str = "NVIDIA H200") -> None:
    """A machine with such a GPU, of which so much memory is free."""
    monkeypatch.setattr(fit_command, "own_gpu", lambda _recipe: torch.device("cuda", 0))
    card = replace(find_card("H200"), name=name, memory_gib=gibibytes)
    monkeypatch.setattr(fit_command, "this_card", lambda _device: card)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _index: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: capability >= (8, 0))
    monkeypatch.setattr(available, "problem", lambda _index: None)
    monkeypatch.setattr(available, "fp8_problem", lambda _index: Bilingual("no", "无"))


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["fit", *arguments]) == 0
    return capsys.readouterr().out


def test_with_a_gpu_it_is_that_gpu_and_what_training_would_do_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_gpu(monkeypatch, 139.25)
    said = printed(capsys, str(folder / "recipe.yaml"), "train.micro_batch_size=1")
    assert "NVIDIA H200, 139.2 GiB" in said
    assert "RTX 4060" not in said
    assert "of 139.2 GiB: activations are kept, 4 micro-batches are computed at once" in said
    assert "每次合并 4 个微批" in said
    assert "computes in bfloat16, the default on this GPU (model.dtype is null)" in said


def test_where_nothing_fits_that_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with_gpu(monkeypatch, 0.1)
    said = printed(capsys, str(folder / "recipe.yaml"))
    assert "that is more than is free: does not fit: take a smaller base" in said
    assert "`imprint fit` says" not in said


def test_the_precision_is_that_of_the_card_or_of_the_recipe(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_gpu(monkeypatch, 11, (7, 5), "NVIDIA GeForce RTX 2080 Ti")
    assert "computes in float16, the default on this GPU" in printed(capsys, str(folder / "recipe.yaml"))
    assert "computes in float32, as model.dtype says" in printed(capsys, str(folder / "recipe.yaml"), "model.dtype=float32")


@pytest.mark.parametrize(("capability", "fused"), [((7, 5), False), ((8, 6), True)])
def test_the_forecast_counts_the_kernels_that_this_gpu_has(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    fused: bool,  # noqa: FBT001
) -> None:
    with_gpu(monkeypatch, 11, capability)
    path = plan_run(read_recipe(folder / "recipe.yaml", [], Recipe), torch.device("cuda", 0)).plan.path
    assert (path.fused_attention, path.graphs, path.triton) == (fused, fused, True)


def test_off_is_told_as_such(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with_gpu(monkeypatch, 80)
    said = printed(capsys, str(folder / "recipe.yaml"), "train.fit=off")
    assert "train.fit=off: the recipe's numbers as they are" in said
    assert "activations are kept," not in said


def test_other_cards_can_be_asked_for_on_such_a_machine(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_gpu(monkeypatch, 80)
    said = printed(capsys, str(folder / "recipe.yaml"), "--card", "all")
    assert "RTX 4060, 8 GiB" in said
    assert "on this GPU" not in said


def test_the_gpu_is_the_one_that_the_recipe_would_be_computed_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*overrides: str) -> torch.device | None:
        return own_gpu(read_recipe(folder / "recipe.yaml", overrides, Recipe))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert found("model.device=cuda:1") is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert found() == torch.device("cuda", 0)
    assert found("model.device=cuda:1") == torch.device("cuda", 1)
    assert found("model.device=cuda:7") is None
    assert found("model.device=cpu") is None


def test_what_would_make_a_run_fit_is_told_as_knobs(forecast: RunForecast) -> None:
    assert what_fits(forecast, find_card("RTX 4080")).english == "train.checkpointing=true would fit"
    assert what_fits(forecast, find_card("RTX 4060")).english.startswith("does not fit: take a smaller base")


def test_the_measured_peak_stands_beside_the_forecast(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_gpu(monkeypatch, 80)
    monkeypatch.setattr(fit_command, "measured_bytes", lambda _run, _notify: 2**30)
    said = printed(capsys, str(folder / "recipe.yaml"), "--probe")
    assert "measured: tensors take 1.00 GiB at their peak; forecast: " in said


def test_without_a_gpu_nothing_can_be_probed(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["fit", str(folder / "recipe.yaml"), "--probe"]) == 2
    assert "--probe: computes on this machine's GPU, and there is none" in capsys.readouterr().err
