"""A complete tiny model folder of every family: the official layout, random weights, a tokenizer with a template of its own."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from imprint.models.checkpoint import save_network
from imprint.models.families import build_network, read_config
from tests.families import FOLDERS

CHATGLM = {
    "model_type": "chatglm",
    "hidden_size": 32,
    "num_layers": 2,
    "num_attention_heads": 2,
    "inner_hidden_size": 64,
    "max_sequence_length": 256,
}
CHATGLM2 = {
    "hidden_size": 32,
    "num_layers": 2,
    "num_attention_heads": 4,
    "multi_query_group_num": 2,
    "multi_query_attention": True,
    "kv_channels": 16,
    "ffn_hidden_size": 48,
    "seq_length": 256,
    "layernorm_epsilon": 1e-5,
    "add_qkv_bias": True,
    "add_bias_linear": False,
    "rmsnorm": True,
    "post_layer_norm": True,
    "original_rope": True,
}
BLOOM = {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 4}
CLASSES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "pad_token_id": 3,
}
FAMILIES: Mapping[str, tuple[str, Mapping[str, object]]] = MappingProxyType(
    {
        "ChatGLM-6B": ("chatglm", CHATGLM),
        "ChatGLM2-6B": ("chatglm2", CHATGLM2),
        "ChatGLM3-6B": ("chatglm3", CHATGLM2),
        "GLM-4-9B": ("glm4", {**CHATGLM2, "rope_ratio": 500}),
        "BLOOM": ("plain", BLOOM),
        "GLM-4-0414": ("own", {**CLASSES, "model_type": "glm4", "partial_rotary_factor": 0.5, "attention_bias": True}),
        "Qwen3": ("own", {**CLASSES, "model_type": "qwen3", "tie_word_embeddings": True}),
    }
)
"""Family -> whose tokenizer it has, and the fields of its config.json."""
OTHER_CLASSES: Mapping[str, tuple[str, Mapping[str, object]]] = MappingProxyType(
    {
        "GLM-4-9B of transformers": ("own", {**CLASSES, "model_type": "glm", "partial_rotary_factor": 0.5, "attention_bias": True}),
        "Llama": ("own", {**CLASSES, "model_type": "llama"}),
        "Mistral": ("own", {**CLASSES, "model_type": "mistral"}),
        "Qwen2": ("own", {**CLASSES, "model_type": "qwen2"}),
        "Gemma 3": ("own", {**CLASSES, "model_type": "gemma3_text", "tie_word_embeddings": True}),
    }
)
"""The same for other classes of transformers."""


def base_of(family: str, folder: Path, *, seed: int = 0, std: float = 0.1) -> Path:
    """A model folder of a family; `std` is that of its matrices."""
    tokenizer, shape = {**FAMILIES, **OTHER_CLASSES}[family]
    source = FOLDERS[tokenizer](folder.with_name(f"{folder.name}-source"))
    (source / "config.json").write_text(json.dumps({**read_config(source), **shape, "torch_dtype": "float32"}), encoding="utf-8")
    network = build_network(read_config(source), source)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            norm = parameter.dim() == 1 and name.endswith("weight")
            torch.nn.init.normal_(parameter, mean=float(norm), std=std if parameter.dim() > 1 else 0.02)
    save_network(network, source, folder)
    return folder
