"""One network in two layouts: ChatGLM2's original names and fields, and those of transformers' own `glm` class (GLM-4-9B-hf).

Both compute the same: RMSNorm, SwiGLU whose gate comes first, half of each head turned in neighbouring pairs, query heads that follow each
other sharing a head of keys. What differs is names, that `glm` holds query, key and value apart, and how the config says them. In 16 bits
transformers rounds a norm once more, before its weight. Source: models/glm of transformers 5.24.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from imprint.errors import UserError
from imprint.models.configs.chatglm2 import ROPE_THETA, ChatGLM2Config

KIND = "glm"
"""The `model_type` of transformers' class."""
TOP = {
    "transformer.embedding.word_embeddings": "model.embed_tokens",
    "transformer.encoder.final_layernorm": "model.norm",
    "transformer.output_layer": "lm_head",
}
"""Modules outside the blocks: original name -> transformers' name."""
BLOCKS = ("transformer.encoder.layers.", "model.layers.")
"""What stands before a block's number."""
INNER = {
    "input_layernorm": "input_layernorm",
    "self_attention.dense": "self_attn.o_proj",
    "post_attention_layernorm": "post_attention_layernorm",
    "mlp.dense_h_to_4h": "mlp.gate_up_proj",
    "mlp.dense_4h_to_h": "mlp.down_proj",
}
"""Modules of a block that are whole in both layouts."""
JOINT = "self_attention.query_key_value"
APART = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
"""The joint projection, and the parts that its rows are laid out as."""


def glm_fields(config: ChatGLM2Config, dtype: torch.dtype) -> dict[str, Any]:
    """The config.json of a `glm` model that computes what this network does."""
    ends = sorted(config.end_ids)
    stretch = {"rope_scaling": {"rope_type": "linear", "factor": config.rope_factor}} if config.rope_factor != 1 else {}
    return {
        "architectures": ["GlmForCausalLM"],
        "model_type": KIND,
        "vocab_size": config.padded_vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.multi_query_group_num,
        "head_dim": config.kv_channels,
        "hidden_act": "silu",
        "max_position_embeddings": config.seq_length,
        "rms_norm_eps": config.layernorm_epsilon,
        "attention_bias": config.add_qkv_bias,
        "attention_dropout": 0.0,
        "rope_theta": config.rope_theta,
        "partial_rotary_factor": 0.5,
        **stretch,
        "tie_word_embeddings": False,
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "pad_token_id": ends[0] if ends else None,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def chatglm2_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json in the original layout for a `glm` model's. Raises UserError where the original has no way to say it."""
    rotary = {**fields, **(fields.get("rope_scaling") or {}), **(fields.get("rope_parameters") or {})}
    kind = rotary.get("rope_type", "default")
    for name, found, known in (
        ("tie_word_embeddings", fields.get("tie_word_embeddings", False), (False,)),
        ("hidden_act", fields.get("hidden_act", "silu"), ("silu",)),
        ("partial_rotary_factor", rotary.get("partial_rotary_factor", 0.5), (0.5,)),
        ("rope_type", kind, ("default", "linear")),
    ):
        if found not in known:
            raise _not_sayable(name, found)
    base, stretch = rotary.get("rope_theta", ROPE_THETA), rotary["factor"] if kind == "linear" else 1.0
    said = {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "padded_vocab_size": fields.get("vocab_size"),
        "hidden_size": fields.get("hidden_size"),
        "ffn_hidden_size": fields.get("intermediate_size"),
        "num_layers": fields.get("num_hidden_layers"),
        "num_attention_heads": fields.get("num_attention_heads"),
        "multi_query_attention": True,
        "multi_query_group_num": fields.get("num_key_value_heads"),
        "kv_channels": fields.get("head_dim"),
        "seq_length": fields.get("max_position_embeddings"),
        "layernorm_epsilon": fields.get("rms_norm_eps"),
        "add_qkv_bias": fields.get("attention_bias", True),
        "add_bias_linear": False,
        "rmsnorm": True,
        "post_layer_norm": True,
        "apply_residual_connection_post_layernorm": False,
        "apply_query_key_layer_scaling": True,
        "rope_ratio": base / ROPE_THETA if stretch == 1 else stretch,
        "tie_word_embeddings": False,
        "eos_token_id": fields.get("eos_token_id"),
        "pad_token_id": fields.get("pad_token_id"),
        "torch_dtype": fields.get("dtype", fields.get("torch_dtype")),
    }
    understood = ChatGLM2Config.read(said)
    if (understood.rope_theta, understood.rope_factor) != (base, stretch):
        raise _not_sayable("rope_parameters", {"rope_theta": base, "factor": stretch})
    return said


def _not_sayable(name: str, value: object) -> UserError:
    return UserError(
        f'config.json: "{name}" is {value!r}, which the original layout of ChatGLM2 and GLM-4-9B has no field for. Keep the model in the '
        "layout of transformers."
    )


def glm_tensors(tensors: Iterable[tuple[str, Tensor]], config: ChatGLM2Config) -> Iterator[tuple[str, Tensor]]:
    """Weights under transformers' names from those under the original's, one after the other; a joint projection becomes three views.

    Plain numbers only: a quantised weight has no such form.
    """
    keys = config.multi_query_group_num * config.kv_channels
    widths = [config.num_attention_heads * config.kv_channels, keys, keys]
    for name, tensor in tensors:
        assert tensor.is_floating_point()
        place, _, last = name.rpartition(".")
        if place in TOP:
            yield f"{TOP[place]}.{last}", tensor
            continue
        number, _, inner = place.removeprefix(BLOCKS[0]).partition(".")
        parts = [(INNER[inner], tensor)] if inner != JOINT else zip(APART, tensor.split(widths), strict=True)
        for part, rows in parts:
            yield f"{BLOCKS[1]}{number}.{part}.{last}", rows


def chatglm2_tensors(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Weights under the original's names from those under transformers', in any order. Raises UserError for one that `glm` has not."""
    top, inner = ({new: old for old, new in names.items()} for names in (TOP, INNER))
    waiting: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors:
        place, _, last = name.rpartition(".")
        number, _, part = place.removeprefix(BLOCKS[1]).partition(".")
        if place in top:
            yield f"{top[place]}.{last}", tensor
        elif part in inner:
            yield f"{BLOCKS[0]}{number}.{inner[part]}.{last}", tensor
        elif part in APART:
            joint = f"{BLOCKS[0]}{number}.{JOINT}.{last}"
            parts = waiting.setdefault(joint, {})
            parts[part] = tensor
            if len(parts) == len(APART):
                yield joint, torch.cat([waiting[joint][each] for each in APART])
                del waiting[joint]
        else:
            raise UserError(f"{name!r} is no weight of transformers' `glm`. Check that config.json belongs to the weights.")
    if waiting:
        raise UserError(f"{min(waiting)!r} has no query, key or value. Download the weights again.")
