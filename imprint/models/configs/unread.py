"""Fields of a config.json that name a computation which an architecture does not have, so that nothing reads them.

The published code of the architecture passes over them as well: the numbers are the same, but whoever wrote the field expects others.
"""

from collections.abc import Collection, Mapping
from typing import Any

from imprint.messages import Bilingual

EPSILONS = frozenset({"layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "norm_eps", "norm_epsilon", "rms_norm_eps"})
ACTIVATIONS = frozenset({"activation_function", "hidden_act", "hidden_activation"})
COMPUTATIONS = EPSILONS | ACTIVATIONS | {
    "alibi", "apply_residual_connection_post_layernorm", "attention_bias", "attention_chunk_size", "attention_multiplier",
    "attn_logit_softcapping", "clip_qkv", "dim_model_base", "embedding_multiplier", "final_logit_softcapping", "layer_types",
    "lm_head_multiplier", "logit_scale", "logits_scaling", "mlp_bias", "mup_enabled", "no_rope_layer_interval", "no_rope_layers",
    "num_experts", "num_local_experts", "output_logit_soft_cap", "partial_rotary_factor", "qk_layernorm", "query_pre_attn_scalar",
    "residual_multiplier", "rope_parameters", "rope_ratio", "rope_scaling", "rope_theta", "scale_attn_by_inverse_layer_idx",
    "scale_depth", "scale_emb", "scale_embeddings", "sliding_window", "use_bidirectional_attention", "use_parallel_residual",
    "use_qk_norm", "use_sliding_window",
}  # fmt: skip
"""Names under which configurations of transformers and of published code set such computations."""
ROTARY = frozenset({"rope_scaling", "rope_theta"})
"""Older names of what transformers keeps in `rope_parameters`."""
SHARE = "partial_rotary_factor"
"""The share of a head that is rotated; it stands in `rope_parameters`, too."""
SECTIONS = ("rope_parameters", "rope_scaling")
IN_VAIN = frozenset(
    {*(f"{section}.factor" for section in SECTIONS), "rope_theta beside rope_parameters", "rope_parameters beside rope_scaling"}
)
"""A factor beside a kind of positions that has none, and what transformers passes over where it has it twice."""


def unread_notice(file: str, fields: Mapping[str, Any], read: Collection[str]) -> Bilingual | None:
    """What to tell of the fields of a `file` that ask for a computation and are not among those that are `read`; None for none."""
    asked = {**_in_sections(fields), **fields}
    names = COMPUTATIONS - set(read) - (ROTARY if "rope_parameters" in read else set())
    unread = [name for name in sorted(names & asked.keys()) if not _is_neutral(asked[name]) and not _has_another_name(name, fields, read)]
    found = ", ".join(f'"{name}"' for name in [*unread, *sorted(asked.keys() & IN_VAIN)])
    if not found:
        return None
    return Bilingual(
        f'{file}: no effect has {found}: the architecture of this "model_type" has no such thing, and its published code does not read it, '
        "either. Take it out, or check that config.json belongs to these weights.",
        f"{found} 不起作用：该架构没有这项计算，其官方代码也不读取；请去掉，或检查 config.json 是否属于这些权重。",
    )


def _in_sections(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What the sections of rotary positions ask for that may have no effect: a share of the heads, and a factor of the usual positions."""
    found = {}
    newer, older, base = (fields.get(name) for name in (*SECTIONS, "rope_theta"))
    if base is not None and isinstance(newer, dict) and newer.get("rope_theta", base) != base:
        found["rope_theta beside rope_parameters"] = base
    if newer and older and newer != older:
        found["rope_parameters beside rope_scaling"] = newer
    for name in SECTIONS:
        section = fields.get(name)
        for part in (section, *section.values()) if isinstance(section, dict) else ():
            if isinstance(part, dict) and not _is_neutral(part.get(SHARE)):
                found[SHARE] = part[SHARE]
            if (
                isinstance(part, dict)
                and part.get("rope_type", part.get("type")) in (None, "default")
                and not _is_neutral(part.get("factor"))
            ):
                found[f"{name}.factor"] = part["factor"]
    return found


def _has_another_name(name: str, fields: Mapping[str, Any], read: Collection[str]) -> bool:
    """Whether the file gives the name that is read, too: the same epsilon, or any activation, of which StarCoder2 and Gemma have two."""
    others = next((group for group in (EPSILONS, ACTIVATIONS) if name in group), frozenset())
    given = [fields[other] for other in others & set(read) - {name} if fields.get(other) is not None]
    return bool(given) if name in ACTIVATIONS else fields.get(name) in given


def _is_neutral(value: object) -> bool:
    """Whether a field asks for nothing: switched off, a factor of 1, the usual positions, or full attention in all layers."""
    if isinstance(value, dict):
        return value.get("rope_type", value.get("type", "default")) == "default" and not {"factor", "rope_theta"} & value.keys()
    if isinstance(value, list):
        return set(map(str, value)) <= {"full_attention"}
    return value is not True and value in (None, False, 0, 1, "")
