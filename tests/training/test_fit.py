import json
from pathlib import Path

import pytest
import torch
import yaml

from imprint.cli import main
from imprint.config import read_recipe
from imprint.forecast.cards import CARDS, find_card
from imprint.training.fit import forecast_run, plan_run
from imprint.training.fit_lines import card_lines
from imprint.training.recipe import Recipe
from tests.bases import base_of
from tests.tiny import tiny_base, tiny_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base without its weights, rows, and a recipe."""
    folder = tmp_path_factory.mktemp("fit")
    base = tiny_base(folder / "base")
    for file in (*base.glob("*.safetensors"), *base.glob("*.bin")):
        file.unlink()
    rows = tiny_rows(folder / "rows.jsonl")
    recipe = {
        "output": str(folder / "run"),
        "model": {"path": str(base)},
        "data": {"train": str(rows), "prompt_column": "content", "response_column": "summary"},
        "tune": {"method": "prefix", "length": 8},
        "train": {"steps": 20, "batch_size": 4, "micro_batch_size": 4},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return folder


def test_the_command_names_every_term_without_weights_or_a_gpu(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["fit", str(folder / "recipe.yaml"), "--output", str(folder / "fit.html")]) == 0
    printed = capsys.readouterr().out
    for part in (
        "weights / 权重",
        "trained parameters, fp32",
        "AdamW's moments",
        "activations kept for the backward pass",
        "logits and loss",
        "CUDA context",
        "cache of the watched answers",
        "saved states: 2, and the one being written",
        "the result, and the one before it",
        "RTX 4060, 8 GiB",
        "H200, 139.8 GiB",
    ):
        assert part in printed, part
    page = (folder / "fit.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "train.checkpointing=true" in page
    assert "放不下" in page
    assert not (folder / "run").exists()


def test_one_card_can_be_asked_for_and_an_unknown_one_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(folder / "recipe.yaml")
    assert main(["fit", recipe, "--card", "4090", "train.checkpointing=true"]) == 0
    printed = capsys.readouterr().out
    assert "RTX 4090" in printed
    assert "H200" not in printed
    assert main(["fit", recipe, "--card", "nothing"]) == 2
    assert "is not a card that is known" in capsys.readouterr().err


def test_only_settings_that_are_shown_are_computed(folder: Path) -> None:
    recipe = read_recipe(folder / "recipe.yaml", [], Recipe)
    every = forecast_run(plan_run(recipe), "recipe")
    for cards in ([find_card("H200")], CARDS):
        shown = forecast_run(plan_run(recipe), "recipe", cards=cards)
        assert {estimate.choice.quantize for estimate in shown.estimates} == {None}, "the recipe fits, in its own weight format"
        assert len(shown.estimates) < len(every.estimates) / 2
        assert list(card_lines(shown, cards)) == list(card_lines(every, cards))


def test_a_wrong_knob_is_an_error_as_in_training(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(folder / "recipe.yaml"), "train.chekpointing=true"]) == 2
    assert "checkpointing" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["ChatGLM2-6B", "BLOOM", "Qwen3"])
@pytest.mark.parametrize("tune", [{"method": "prefix", "length": 8}, {"method": "lora", "dora": True}, {"method": "full"}])
def test_every_family_and_method_has_a_forecast(family: str, tune: dict[str, object], folder: Path, tmp_path: Path) -> None:
    base = base_of(family, tmp_path / "base")
    values = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**values, "model": {"path": str(base)}, "tune": tune}), encoding="utf-8")
    forecast = forecast_run(plan_run(read_recipe(tmp_path / "recipe.yaml", [], Recipe)), "recipe", cards=())
    assert forecast.own.peak_bytes > 0
    assert forecast.own.choice.tune.method == tune["method"]
    assert forecast.steps == 20


def test_raw_text_has_a_forecast_with_its_tokens_on_disk(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text("\n".join(json.dumps({"text": "红色的裙子很宽松。" * 30}) for _ in range(10)), encoding="utf-8")
    values = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    values["data"] = {"kind": "texts", "train": str(text), "length": 64}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    forecast = forecast_run(plan_run(read_recipe(tmp_path / "recipe.yaml", [], Recipe)), "recipe", cards=())
    assert [term.name.english for term in forecast.disk][-1] == "tokens of the texts"


def test_processes_share_the_rows_of_a_step(folder: Path) -> None:
    recipe = read_recipe(folder / "recipe.yaml", ["engine.processes=2", "train.micro_batch_size=1"], Recipe)
    assert forecast_run(plan_run(recipe), "recipe", cards=()).own.micro_batches == 2


def test_settings_that_the_base_cannot_have_are_left_out(folder: Path) -> None:
    recipe = read_recipe(folder / "recipe.yaml", ["tune={method: lora, dora: true}"], Recipe)
    assert {estimate.choice.quantize for estimate in forecast_run(plan_run(recipe), "recipe").estimates} == {None}
