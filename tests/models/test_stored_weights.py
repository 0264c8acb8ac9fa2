from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from imprint.messages import UserError
from imprint.models.checkpoint import load_network
from imprint.models.network import Network
from imprint.models.stored_weights import is_plain, plain_name
from tests.cases import difference
from tests.reference_models import ROWS, our_logits
from tests.tiny import tiny_base

CPU = torch.device("cpu")
HEAD = "transformer.layers.0.mlp.dense_h_to_4h.weight"


def loaded(folder: Path) -> Network:
    return load_network(folder, dtype=torch.float32, device=CPU)


def folder_with(tmp_path: Path, tensors: dict[str, Tensor] | None = None, *, content: object = None) -> Path:
    """The tiny base with other weights: safetensors, or what torch saves."""
    folder = tiny_base(tmp_path / "base")
    if content is None:
        assert tensors is not None
        save_file(tensors, folder / "model.safetensors")
        return folder
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def tensors(tmp_path: Path) -> dict[str, Tensor]:
    return load_file(tiny_base(tmp_path / "whole") / "model.safetensors")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model.", "module._orig_mod.", "_forward_module."])
@pytest.mark.parametrize("key", [None, "module", "state_dict", "model_state_dict"])
def test_names_of_wrappers_are_read(tmp_path: Path, tensors: dict[str, Tensor], prefix: str, key: str | None) -> None:
    expected = our_logits(loaded(tmp_path / "whole"), ROWS[:1])[0]
    wrapped = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}

    network = loaded(folder_with(tmp_path, content=wrapped if key is None else {key: wrapped, "global_steps": 3}))

    assert difference(our_logits(network, ROWS[:1])[0], expected) == 0


def test_an_empty_tensor_of_zero_3_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    with pytest.raises(UserError) as caught:
        loaded(folder_with(tmp_path, {**tensors, HEAD: torch.empty(0)}))

    assert f"'{HEAD}' holds no values, its shape is (0,): DeepSpeed's ZeRO-3 saved it without gathering the weights" in str(caught.value)


def test_a_lora_that_was_not_merged_is_named(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    name = HEAD.removesuffix(".weight")
    unmerged = {f"base_model.model.{key}": tensor for key, tensor in tensors.items() if key != HEAD}
    unmerged |= {
        f"base_model.model.{name}.base_layer.weight": tensors[HEAD],
        f"base_model.model.{name}.lora_A.default.weight": torch.zeros(4, 32),
    }

    with pytest.raises(UserError, match=r"a LoRA beside the base's weights, as a whole model of peft is saved before it is merged"):
        loaded(folder_with(tmp_path, unmerged))


def test_names_without_a_wrapper_stay_as_they_are() -> None:
    assert plain_name("module.base_model.model.model.norm.weight") == "model.norm.weight"
    assert plain_name("model.module.norm.weight") == "model.module.norm.weight"


@pytest.mark.parametrize(
    ("more", "plain"),
    [
        ({}, True),
        ({"mask": torch.ones(2, 2, dtype=torch.bool)}, True),
        ({"a.weight": torch.zeros(4, 4, dtype=torch.uint8)}, False),
        ({"a.weight": torch.zeros(4, 4, dtype=torch.float8_e4m3fn)}, False),
        ({"a.weight.absmax": torch.zeros(4)}, False),
        ({"a.qweight": torch.zeros(4, 4, dtype=torch.int32)}, False),
        ({"a.weight_scale_inv": torch.zeros(4, 4)}, False),
    ],
)
def test_quantised_weights_are_told_by_their_tensors(more: dict[str, Tensor], plain: bool) -> None:  # noqa: FBT001
    assert is_plain({"b.weight": torch.zeros(2, 2, dtype=torch.bfloat16), "b.bias": torch.zeros(2), **more}.items()) == plain
    assert not is_plain([])
