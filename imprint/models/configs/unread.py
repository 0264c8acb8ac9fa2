"""Fields of a config.json that name a computation which an architecture does not have, so that nothing reads them.

The published code of the architecture passes over them as well: the numbers are the same, but whoever wrote the field expects others.
"""

from collections.abc import Collection, Mapping
from typing import Any

from imprint.messages import Bilingual

COMPUTATIONS = frozenset(
    {
        "alibi", "attention_bias", "attention_multiplier", "attn_logit_softcapping", "clip_qkv", "dim_model_base", "embedding_multiplier",
        "final_logit_softcapping", "layer_types", "lm_head_multiplier", "logit_scale", "logits_scaling", "mlp_bias", "num_experts",
        "num_local_experts", "output_logit_soft_cap", "partial_rotary_factor", "qk_layernorm", "query_pre_attn_scalar",
        "residual_multiplier", "rope_parameters", "rope_ratio", "rope_scaling", "rope_theta", "scale_depth", "scale_emb", "sliding_window",
        "use_bidirectional_attention", "use_qk_norm", "use_sliding_window",
    }
)  # fmt: skip
"""Names under which configurations of transformers and of published code set such computations."""
ROTARY = frozenset({"rope_scaling", "rope_theta", "partial_rotary_factor"})
"""Older names of what transformers keeps in `rope_parameters`."""


def unread_notice(file: str, fields: Mapping[str, Any], read: Collection[str]) -> Bilingual | None:
    """What to tell of the fields of a `file` that ask for a computation and are not among those that are `read`; None for none."""
    names = COMPUTATIONS - set(read) - (ROTARY if "rope_parameters" in read else set())
    found = ", ".join(f'"{name}"' for name in sorted(names & fields.keys()) if not _is_neutral(fields[name]))
    if not found:
        return None
    return Bilingual(
        f'{file}: no effect has {found}: the architecture of this "model_type" has no such thing, and its published code does not read it, '
        "either. Take it out, or check that config.json belongs to these weights.",
        f"{found} 不起作用：该架构没有这项计算，其官方代码也不读取；请去掉，或检查 config.json 是否属于这些权重。",
    )


def _is_neutral(value: object) -> bool:
    """Whether a field asks for nothing: switched off, a factor of 1, the usual positions, or full attention in all layers."""
    if isinstance(value, dict):
        return value.get("rope_type", value.get("type", "default")) == "default" and "factor" not in value
    if isinstance(value, list):
        return set(map(str, value)) <= {"full_attention"}
    return value is not True and value in (None, False, 0, 1, "")
