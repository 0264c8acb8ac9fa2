"""The settings of a GGUF file that change what its model computes, and whether a config.json of transformers has them.

transformers passes over settings that it does not know. Names: github.com/ggml-org/ggml, docs/gguf.md, and `Keys` of the package gguf.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from imprint.messages import Bilingual, UserError

ARCHITECTURE: Final = "general.architecture"
HARMLESS: Final = frozenset(
    {
        *("block_count", "embedding_length", "feed_forward_length", "vocab_size"),  # tensors of other shapes are refused
        *("context_length", "pooling_type", "tensor_data_layout", "decoder_start_token_id"),
        *("rope.scaling.finetuned", "rope.scaling.original_context_length"),
    }
)
"""Settings that change nothing beside those that are compared, and the shapes of the tensors."""
EPSILON: Final = ("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps", "norm_epsilon", "norm_eps")
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "attention.head_count": ("num_attention_heads", "n_head", "num_heads"),
    "attention.head_count_kv": ("num_key_value_heads", "num_attention_heads", "n_head", "num_heads"),
    "attention.key_length": ("head_dim", "global_head_dim"),
    "attention.value_length": ("head_dim", "global_head_dim"),
    "attention.key_length_swa": ("head_dim",),
    "attention.value_length_swa": ("head_dim",),
    "attention.layer_norm_epsilon": EPSILON,
    "attention.layer_norm_rms_epsilon": EPSILON,
    "attention.sliding_window": ("sliding_window",),
    "attention.sliding_window_pattern": ("_sliding_window_pattern", "sliding_window_pattern"),
    "attention.scale": ("attention_multiplier",),
    "rope.dimension_count": ("rotary_dim",),
    "rope.dimension_count_swa": ("rotary_dim",),
    "rope.freq_base": ("rope_theta", "rotary_emb_base"),
    "rope.freq_base_swa": ("sliding_attention.rope_theta", "rope_local_base_freq"),
    "rope.scaling.type": ("rope_type", "type"),
    "rope.scaling.factor": ("factor",),
    "rope.scaling.attn_factor": ("attention_factor",),
    "logit_scale": ("logit_scale", "logits_scaling"),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "use_parallel_residual": ("use_parallel_residual",),
    "expert_count": ("num_experts", "num_local_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size", "intermediate_size"),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_weights_norm": ("norm_topk_prob",),
    "shortconv.l_cache": ("conv_L_cache",),
    "ssm.conv_kernel": ("conv_kernel",),
    "ssm.inner_size": ("intermediate_size",),
    "ssm.state_size": ("state_size",),
    "ssm.time_step_rank": ("time_step_rank",),
}
"""Setting -> its names in a config.json, one of which must have its value."""
ZERO: Final = (0,)
NEUTRAL: Final[Mapping[str, tuple[object, ...]]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": ZERO,
    "attention.max_alibi_bias": ZERO,
    "attention.output_scale": (0, 1),
    "attention.scale": ZERO,
    "attention.shared_kv_layers": ZERO,
    "attention.sliding_window": ZERO,
    "attn_logit_softcapping": ZERO,
    "embedding_scale": (0, 1),
    "expert_count": ZERO,
    "expert_gating_func": (0, 1),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_shared_count": ZERO,
    "expert_used_count": ZERO,
    "expert_weights_scale": (0, 1),
    "final_logit_softcapping": ZERO,
    "leading_dense_block_count": ZERO,
    "logit_scale": (0, 1),
    "nextn_predict_layers": ZERO,
    "residual_scale": (0, 1),
    "rope.scaling.alpha": ZERO,
    "rope.scaling.attn_factor": (1,),
    "rope.scaling.factor": (0, 1),
    "rope.scaling.type": ("none", ""),
    "rope.scaling.yarn_attn_factor": (1,),
    "rope.scaling.yarn_ext_factor": ZERO,
    "rope.scaling.yarn_log_multiplier": ZERO,
    "ssm.dt_b_c_rms": (False,),
}
"""Setting -> its values that change nothing."""
KNOWN: Final = HARMLESS | NAMES.keys() | NEUTRAL.keys()
ALIBI: Final = {"bloom": 8}
"""Architecture -> the largest bias for a distance that it has itself."""


def refuse_settings_of_another(metadata: Mapping[str, Any]) -> None:
    """Raise ValueError for settings under another architecture than the file's: transformers takes them as well."""
    family = metadata.get(ARCHITECTURE)
    for key in metadata:
        other, _dot, name = key.partition(".")
        if other != family and name in KNOWN:
            raise ValueError(f"it has {key[:80]}, and its architecture is {family!s:.40}")


def refuse_unread_settings(file: Path, metadata: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Raise UserError where a setting of the file's architecture is not known, or is not in `fields`, those of a config.json."""
    prefix = f"{metadata.get(ARCHITECTURE)}."
    taken = {*_leaves(fields), *_sizes(fields)}
    settings = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    if unread := {name: value for name, value in settings.items() if not _is_read(name, value, prefix[:-1], settings, taken)}:
        found = ", ".join(f"{prefix:.40}{name:.80} {value!s:.40}" for name, value in list(unread.items())[:5])
        more = f" and {len(unread) - 5} more" if unread.keys() - list(unread)[:5] else ""
        raise UserError(
            Bilingual(
                f"{file}: transformers does not read {found}{more}: the model would compute something else. "
                "Take the model's own release in safetensors, or a GGUF of another model.",
                f"{file}：transformers 不读取其中的设置（{found}{more}），计算会不同：请使用该模型的 safetensors 版本，或换一个 GGUF。",
            )
        )


def _is_read(name: str, value: object, family: str, settings: Mapping[str, Any], taken: set[tuple[str, str]]) -> bool:
    """Whether a model of the fields `taken` computes what this setting of the file says."""
    length = settings.get("context_length")
    if name == "attention.sliding_window" and isinstance(value, int) and isinstance(length, int) and value >= length:
        return True
    if name == "attention.max_alibi_bias" and value == ALIBI.get(family):
        return True
    neutral = not isinstance(value, list) and value in NEUTRAL.get(name, ())
    return name in HARMLESS or neutral or any((key, _plain(value)) in taken for key in NAMES.get(name, ()))


def _sizes(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Size of a head, and how much of it is rotated, which a config.json need not name."""
    hidden = fields.get("hidden_size") or fields.get("n_embd")
    heads = fields.get("num_attention_heads") or fields.get("n_head")
    size = fields.get("head_dim") or (hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads else None)
    if isinstance(size, int):
        share = dict(_leaves(fields)).get("partial_rotary_factor", "1")
        yield from (("head_dim", _plain(size)), ("rotary_dim", _plain(int(size * float(share)))))


def _plain(value: object) -> str:
    """A value as it compares with one that a file has in 32 bits."""
    return f"{value:.5g}" if isinstance(value, int | float) else str(value)


def _leaves(value: object, key: str = "", above: str = "") -> Iterator[tuple[str, str]]:
    """(key, value) and (key above.key, value) of the numbers and texts in the fields of a config.json, as `_plain` gives them."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, str(name), key)
    elif isinstance(value, int | float | str):
        yield from ((key, _plain(value)), (f"{above}.{key}", _plain(value)))
