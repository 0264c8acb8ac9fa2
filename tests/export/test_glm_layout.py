import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from imprint.export.glm_layout import glm_fields, glm_tensors
from imprint.models.chatglm2 import ChatGLM2
from imprint.models.configs.chatglm2 import ChatGLM2Config
from imprint.pack import pack
from tests import cases, reference_models
from tests.cases import difference, small_chatglm2

ROWS = [[3, 1, 4, 1, 5, 9, 2, 6], [5], [3, 5, 8]]
FAMILIES: dict[str, dict[str, object]] = {
    "chatglm2-6b": {"padded_vocab_size": 65024},
    "chatglm2-6b-32k": {"padded_vocab_size": 65024, "rope_ratio": 16},
    "chatglm3-6b-32k": {"padded_vocab_size": 65024, "rope_ratio": 50},
    "glm-4-9b-chat": {"rope_ratio": 500, "eos_token_id": [5, 36, 38]},
    "without a bias": {"add_qkv_bias": False},
}


@pytest.fixture(params=FAMILIES)
def network(request: pytest.FixtureRequest) -> ChatGLM2:
    return small_chatglm2(fields=FAMILIES[request.param], std=0.3)


def as_glm(network: ChatGLM2, folder: Path) -> Any:
    """The network as transformers loads it from a folder in its own layout."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(glm_fields(network.config, torch.float32)))
    tensors = {name: tensor.clone() for name, tensor in glm_tensors(network.state_dict().items(), network.config)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, info = loaded
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def test_transformers_computes_the_same_from_its_layout(network: ChatGLM2, tmp_path: Path) -> None:
    glm = as_glm(network, tmp_path / "glm")

    assert type(glm).__name__ == "GlmForCausalLM"
    for row in ROWS:
        logits = network.logits(network(pack([row], network)))
        assert difference(logits, reference_models.logits(glm, row)) <= 1e-4


def test_gradients_of_a_prefix_and_the_loss_are_those_of_transformers(tmp_path: Path) -> None:
    network = small_chatglm2(std=0.3)
    glm = as_glm(network, tmp_path / "glm")
    prefix = reference_models.draw_prefix(layers=2, heads=2, head_size=12)
    inputs = [tensor for pair in prefix for tensor in pair]

    rows = [row for row in ROWS if len(row) > 1]
    batch = pack(rows, network, rows)
    logits = network.logits(network(batch, prefix=prefix, checkpointing=True)[batch.targets])
    ours = torch.nn.functional.cross_entropy(logits, batch.labels)
    theirs = reference_models.loss(glm, rows, rows, prefix)

    assert difference(ours, theirs) <= 1e-4
    for one, other in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        assert difference(one, other) <= 1e-4 * float(other.abs().max())


def test_the_fused_projection_is_split_without_a_copy() -> None:
    network = small_chatglm2()
    weight = network.state_dict()["transformer.encoder.layers.1.self_attention.query_key_value.weight"]

    parts = dict(glm_tensors(network.state_dict().items(), network.config))

    rows = [parts[f"model.layers.1.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert [len(part) for part in rows] == [48, 24, 24]
    assert {part.untyped_storage().data_ptr() for part in rows} == {weight.untyped_storage().data_ptr()}


def test_one_end_is_an_id_several_are_a_list_and_none_is_none() -> None:
    def ends(value: object) -> object:
        return glm_fields(ChatGLM2Config.read({**cases.chatglm2_fields(), "eos_token_id": value}), torch.float32)["eos_token_id"]

    assert [ends(2), ends([7, 5]), ends(None)] == [2, [5, 7], []]
