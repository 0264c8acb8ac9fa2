"""Converts between two layouts of one network: ChatGLM2's original, and transformers' `glm` (GLM-4-9B-hf).

Both compute the same: RMSNorm, SwiGLU with the gate first, RoPE on neighbouring pairs in half of each head, grouped-query attention with
consecutive query heads in a group. Names and config fields differ, and `glm` has separate query, key and value projections. In 16 bits
transformers rounds a norm once more, before its weight. Source: models/glm of transformers 5.24.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from imprint.messages import Bilingual, UserError
from imprint.models.configs.chatglm2 import ROPE_THETA, ChatGLM2Config

MODEL_TYPE = "glm"
"""transformers' `model_type`."""
OUTSIDE_BLOCKS = {
    "transformer.embedding.word_embeddings": "model.embed_tokens",
    "transformer.encoder.final_layernorm": "model.norm",
    "transformer.output_layer": "lm_head",
}
"""Modules outside the blocks: original name -> transformers name."""
BLOCK_PREFIXES = ("transformer.encoder.layers.", "model.layers.")
"""Prefixes of a block's index: original, transformers."""
IN_BLOCK = {
    "input_layernorm": "input_layernorm",
    "self_attention.dense": "self_attn.o_proj",
    "post_attention_layernorm": "post_attention_layernorm",
    "mlp.dense_h_to_4h": "mlp.gate_up_proj",
    "mlp.dense_4h_to_h": "mlp.down_proj",
}
"""Modules of a block that both layouts have: original name -> transformers name."""
FUSED_QKV = "self_attention.query_key_value"
SEPARATE_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
"""The fused projection, and the separate ones in the order of its rows."""


def glm_fields(config: ChatGLM2Config, dtype: torch.dtype) -> dict[str, Any]:
    """The config.json of the `glm` model that computes the same as a ChatGLM2 network."""
    ends = sorted(config.end_ids)
    rope_scaling = {"rope_scaling": {"rope_type": "linear", "factor": config.rope_factor}} if config.rope_factor != 1 else {}
    return {
        "architectures": ["GlmForCausalLM"],
        "model_type": MODEL_TYPE,
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
        **rope_scaling,
        "tie_word_embeddings": False,
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "pad_token_id": ends[0] if ends else None,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def chatglm2_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The original layout's config.json for that of a `glm` model. Raises UserError for settings that the original layout does not have."""
    rotary = {**fields, **(fields.get("rope_scaling") or {}), **(fields.get("rope_parameters") or {})}
    rope_type = rotary.get("rope_type", "default")
    for name, value, allowed in (
        ("tie_word_embeddings", fields.get("tie_word_embeddings", False), (False,)),
        ("hidden_act", fields.get("hidden_act", "silu"), ("silu",)),
        ("partial_rotary_factor", rotary.get("partial_rotary_factor", 0.5), (0.5,)),
        ("rope_type", rope_type, ("default", "linear")),
    ):
        if value not in allowed:
            raise _no_field_error(name, value)
    theta, factor = rotary.get("rope_theta", ROPE_THETA), rotary["factor"] if rope_type == "linear" else 1.0
    original = {
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
        "rope_ratio": theta / ROPE_THETA if factor == 1 else factor,
        "tie_word_embeddings": False,
        "eos_token_id": fields.get("eos_token_id"),
        "pad_token_id": fields.get("pad_token_id"),
        "torch_dtype": fields.get("dtype", fields.get("torch_dtype")),
    }
    config = ChatGLM2Config.read(original)
    if (config.rope_theta, config.rope_factor) != (theta, factor):
        raise _no_field_error("rope_parameters", {"rope_theta": theta, "factor": factor})
    return original


def _no_field_error(name: str, value: object) -> UserError:
    return UserError(
        Bilingual(
            f'config.json: "{name}" is {value!r}, for which the original layout of ChatGLM2 and GLM-4-9B has no field. Keep the model in '
            "the layout of transformers.",
            f'config.json："{name}" 为 {value!r}，ChatGLM2 与 GLM-4-9B 的原始格式没有对应字段：请保留 transformers 格式。',
        )
    )


def glm_tensors(tensors: Iterable[tuple[str, Tensor]], config: ChatGLM2Config) -> Iterator[tuple[str, Tensor]]:
    """Weights with transformers names from those with original names, one at a time; a fused projection becomes three views.

    Quantised weights are not supported.
    """
    keys = config.multi_query_group_num * config.kv_channels
    widths = [config.num_attention_heads * config.kv_channels, keys, keys]
    for name, tensor in tensors:
        assert tensor.is_floating_point()
        path, _, last = name.rpartition(".")
        if path in OUTSIDE_BLOCKS:
            yield f"{OUTSIDE_BLOCKS[path]}.{last}", tensor
            continue
        block, _, module = path.removeprefix(BLOCK_PREFIXES[0]).partition(".")
        parts = [(IN_BLOCK[module], tensor)] if module != FUSED_QKV else zip(SEPARATE_QKV, tensor.split(widths), strict=True)
        for part, rows in parts:
            yield f"{BLOCK_PREFIXES[1]}{block}.{part}.{last}", rows


def chatglm2_tensors(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Weights with original names from those with transformers names, in any order. Raises UserError for one that `glm` does not have."""
    outside_blocks, in_block = ({new: old for old, new in names.items()} for names in (OUTSIDE_BLOCKS, IN_BLOCK))
    incomplete: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors:
        path, _, last = name.rpartition(".")
        block, _, module = path.removeprefix(BLOCK_PREFIXES[1]).partition(".")
        if path in outside_blocks:
            yield f"{outside_blocks[path]}.{last}", tensor
        elif module in in_block:
            yield f"{BLOCK_PREFIXES[0]}{block}.{in_block[module]}.{last}", tensor
        elif module in SEPARATE_QKV:
            fused = f"{BLOCK_PREFIXES[0]}{block}.{FUSED_QKV}.{last}"
            parts = incomplete.setdefault(fused, {})
            parts[module] = tensor
            if len(parts) == len(SEPARATE_QKV):
                yield fused, torch.cat([parts[part] for part in SEPARATE_QKV])
                del incomplete[fused]
        else:
            raise UserError(
                Bilingual(
                    f"{name!r} is no weight of transformers' `glm`. Check that config.json belongs to the weights.",
                    f"{name!r} 不是 transformers `glm` 的权重：请检查 config.json 是否属于这些权重。",
                )
            )
    if incomplete:
        raise UserError(
            Bilingual(
                f"{min(incomplete)!r} has no query, key or value. Download the weights again.",
                f"{min(incomplete)!r} 缺少 query、key 或 value：请重新下载权重。",
            )
        )
