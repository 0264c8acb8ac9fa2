"""Pre-training from nothing, on a few texts: the way that the embedded base was made."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

import imprint
from imprint.config import read_recipe
from imprint.demo.pretrain import RECIPE, configuration, pretrain
from imprint.recipe import Recipe


def test_the_recipe_beside_it_is_a_whole_recipe_of_full_tuning() -> None:
    recipe = read_recipe(RECIPE, [], Recipe)
    assert recipe.tune.method == "full"
    assert recipe.train.batch_size == recipe.train.micro_batch_size


def test_the_embedded_base_has_the_ids_of_its_own_vocabulary() -> None:
    base = Path(imprint.__file__).parent / "demo" / "base"
    fields = json.loads((base / "config.json").read_text())
    expected = configuration(base)
    assert {name: fields[name] for name in expected} == expected


@pytest.mark.long
def test_a_base_is_made_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imprint.demo.pretrain.HELD_OUT_DOCUMENTS", 16)
    base = pretrain(tmp_path / "out", texts=64, overrides=("train.steps=2", "train.batch_size=8", "train.micro_batch_size=8"))
    tensors = load_file(base / "model.safetensors")
    assert "lm_head.weight" not in tensors  # the head is the embedding, kept once
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"torch.float16"}
    model = imprint.load(base, device="cpu")
    assert model.tokenizer.decode(model.tokenizer.encode("这件上衣")) == "这件上衣"
