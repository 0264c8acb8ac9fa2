from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imprint.models.hf import build
from imprint.models.hf_fusible import let_norms_fuse

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 40,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


class Scaled(nn.Module):
    """Looks like an RMS norm, and is none: the weight is squared."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.eps = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, (4,), self.weight**2, self.eps)


def norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if "fusible" in str(vars(type(module)).get("forward"))]


@pytest.mark.parametrize(("model_type", "found"), [("qwen3", 2 * 4 + 1), ("gemma3_text", 2 * 6 + 1), ("llama", 2 * 2 + 1)])
def test_norms_of_a_model_are_found_and_keep_their_names(model_type: str, found: int) -> None:
    network: Any = build({"model_type": model_type, **SIZES}, {})

    assert len(norms(network)) == found
    assert all(type(module).__name__.endswith("RMSNorm") for module in norms(network))
    assert {"model.norm.weight", "model.layers.1.input_layernorm.weight"} <= set(network.state_dict())


def test_a_model_without_weights_is_probed_too() -> None:
    with torch.device("meta"):
        network = build({"model_type": "qwen3", **SIZES}, {})

    assert len(norms(network)) == 9
    assert all(parameter.is_meta for parameter in network.parameters())


def test_what_is_no_norm_stays_as_it_is() -> None:
    model = nn.ModuleList([Scaled(), nn.RMSNorm(4), nn.LayerNorm(4), nn.Linear(4, 4)])

    assert let_norms_fuse(model) == 0
    assert [type(module) for module in model] == [Scaled, nn.RMSNorm, nn.LayerNorm, nn.Linear]


def test_a_rotation_of_neighbours_stays_as_it_is() -> None:
    from transformers.models.glm4 import modeling_glm4
    from transformers.models.qwen3 import modeling_qwen3

    for model_type in ("glm4", "qwen3"):
        build({"model_type": model_type, **SIZES}, {})

    def passes_through(code: ModuleType) -> bool:
        return hasattr(code.apply_rotary_pos_emb, "__wrapped__") and "fusible" in code.apply_rotary_pos_emb.__code__.co_name

    assert not passes_through(modeling_glm4)
    assert passes_through(modeling_qwen3)
