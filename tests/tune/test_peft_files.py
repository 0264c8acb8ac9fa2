from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from imprint.messages import UserError
from imprint.tune.adapter_folder import load_adapter
from imprint.tune.peft_files import CONFIG_FILE, PICKLE_FILE, TENSORS_FILE
from tests.cases import small_network

LINEAR = "transformer.layers.0.attention.query_key_value"
LORA = {
    f"base_model.model.{LINEAR}.lora_A.default.weight": torch.ones(8, 32),
    f"base_model.model.{LINEAR}.lora_B.default.weight": torch.ones(96, 8),
}
SETTINGS = '{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none", "target_modules": ["query_key_value"]}'


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_adapter(path, small_network())
    return str(caught.value)


def pickled(folder: Path, name: str, tensors: dict[str, Tensor], settings: str = "") -> Path:
    torch.save(tensors, folder / name)
    if settings:
        (folder / CONFIG_FILE).write_text(settings)
    return folder


@pytest.mark.parametrize("name", ["chatglm-lora.pt", "pytorch_model.bin", PICKLE_FILE])
def test_a_lora_without_its_configuration_is_called_one(tmp_path: Path, name: str) -> None:
    folder = pickled(tmp_path, name, LORA)

    for path in [folder / name, *([] if name == "chatglm-lora.pt" else [folder])]:
        sentence = refusal(path)
        assert "is a LoRA without its adapter_config.json, which says by how much it is multiplied" in sentence
        assert '{"peft_type": "LORA", "r": 8, "lora_alpha": ALPHA}' in sentence


@pytest.mark.parametrize("name", ["model.safetensors", TENSORS_FILE])
def test_a_lora_in_safetensors_without_its_configuration_is_called_one(tmp_path: Path, name: str) -> None:
    save_file(LORA, tmp_path / name)

    assert "is a LoRA without its adapter_config.json" in refusal(tmp_path)


def test_a_lora_that_was_saved_empty_is_told(tmp_path: Path) -> None:
    sentence = refusal(pickled(tmp_path, PICKLE_FILE, {}, SETTINGS))

    assert f"{tmp_path / PICKLE_FILE}: was saved empty, it holds no tensors" in sentence
    assert "Take an earlier checkpoint of that training, or train again." in sentence


@pytest.mark.parametrize("settings", ["", SETTINGS])
def test_tensors_that_zero_3_left_empty_are_told(tmp_path: Path, settings: str) -> None:
    sentence = refusal(pickled(tmp_path, PICKLE_FILE, dict.fromkeys(LORA, torch.empty(0)), settings))

    assert "holds no values, its shape is (0,): DeepSpeed's ZeRO-3 saved it without gathering the weights" in sentence


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("settings", ["", SETTINGS])
def test_a_training_that_broke_is_told(tmp_path: Path, settings: str, value: float) -> None:
    sentence = refusal(pickled(tmp_path, PICKLE_FILE, {name: torch.full_like(tensor, value) for name, tensor in LORA.items()}, settings))

    assert "holds NaN or infinite values: the training that wrote it broke" in sentence


def test_numbers_that_float32_does_not_hold_are_told(tmp_path: Path) -> None:
    sentence = refusal(pickled(tmp_path, PICKLE_FILE, {name: tensor.double() * 1e200 for name, tensor in LORA.items()}, SETTINGS))

    assert "holds NaN or infinite values: the training that wrote it broke" in sentence


@pytest.mark.parametrize("settings", ["", SETTINGS])
def test_numbers_of_8_bits_without_their_scales_are_told(tmp_path: Path, settings: str) -> None:
    sentence = refusal(pickled(tmp_path, PICKLE_FILE, {name: tensor.to(torch.float8_e4m3fn) for name, tensor in LORA.items()}, settings))

    assert "holds float8_e4m3fn values, whose scales are not there" in sentence


def test_a_lora_in_safetensors_that_was_saved_empty_is_told(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text(SETTINGS)
    save_file({}, tmp_path / TENSORS_FILE)

    assert f"{tmp_path / TENSORS_FILE}: was saved empty, it holds no tensors" in refusal(tmp_path)


def test_a_prefix_that_is_not_finite_is_told(tmp_path: Path) -> None:
    torch.save({"transformer.prefix_encoder.embedding.weight": torch.full((5, 128), float("nan"))}, tmp_path / "prefix.bin")

    assert "'transformer.prefix_encoder.embedding.weight' holds NaN" in refusal(tmp_path / "prefix.bin")


def test_a_prefix_below_a_wrapper_is_read(tmp_path: Path) -> None:
    torch.save({"module": {"module.transformer.prefix_encoder.embedding.weight": torch.ones(5, 128)}}, tmp_path / "prefix.bin")

    adapter, description = load_adapter(tmp_path / "prefix.bin", small_network())

    assert adapter.settings() == {"length": 5, "projection": False}
    assert description.method_metadata.start == "original"


def test_a_lora_with_its_configuration_is_read(tmp_path: Path) -> None:
    adapter, description = load_adapter(pickled(tmp_path, PICKLE_FILE, LORA, SETTINGS), small_network())

    assert adapter.settings()["rank"] == 8
    assert description.method_metadata.start == "peft"
