"""Converts ChatGLM2's original layout to transformers' `glm` (GLM-4-9B-hf), which is the same network.

Both compute the same: RMSNorm, SwiGLU with the gate first, RoPE on neighbouring pairs in half of each head, grouped-query attention with
consecutive query heads in a group. Names and config fields differ, and `glm` has separate query, key and value projections. In 16 bits
transformers rounds a norm once more, before its weight. Source: models/glm of transformers 5.24.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from imprint.models.configs.chatglm2 import ChatGLM2Config

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
    ends = sorted(config.stop_ids)
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


def glm_tensors(tensors: Iterable[tuple[str, Tensor]], config: ChatGLM2Config) -> Iterator[tuple[str, Tensor]]:
    """Weights with transformers names from those with original names, one at a time; a fused projection becomes three views.

    Quantized weights are not supported.
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
