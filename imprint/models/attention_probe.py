"""Probes a transformers model: one forward pass records the arguments of every attention, to see whether ours can replace it.

Legend: T tokens, G heads of keys and values, D head size.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from imprint.messages import Bilingual, UserError

CONTEXT = "imprint_context"
"""The keyword argument that carries a ForwardContext, or the probe, to every attention."""
IGNORED_ARGUMENTS = frozenset({"dropout", "scaling", "sliding_window", "is_causal", "position_ids", "cache_position", "use_cache", CONTEXT})
"""Keyword arguments of an attention that do not change its result here."""


@dataclass(frozen=True)
class ProbedAttention:
    """The sizes and arguments with which transformers called one attention."""

    layer: int | None
    """Index of the layer, from 0."""
    num_kv_heads: int
    """Number of key/value heads."""
    key_dim: int
    """Size of a key in one head."""
    value_dim: int
    """Size of a value in one head."""
    window: int | None
    """Sliding window in tokens; None for full attention."""
    unsupported: tuple[str, ...]
    """Names of arguments that our attention does not support."""


@dataclass
class AttentionProbe:
    """Passed to every attention in place of a ForwardContext; records the calls."""

    attentions: list[ProbedAttention] = field(default_factory=list)

    def record(self, module: nn.Module, key: Tensor, value: Tensor, arguments: dict[str, Any]) -> None:
        """Record one call: key and value (1, G, T, D)."""
        unsupported = [
            name for name, value in arguments.items() if name not in IGNORED_ARGUMENTS and value is not None and value is not False
        ]
        if arguments.get("is_causal") is False or getattr(module, "is_causal", True) is False:
            unsupported.append("bidirectional attention")
        layer, window = getattr(module, "layer_idx", None), arguments.get("sliding_window")
        self.attentions.append(ProbedAttention(layer, key.shape[1], key.shape[3], value.shape[3], window, tuple(unsupported)))


def unusable_error(model_type: str, english: str, chinese: str) -> UserError:
    """The error for a transformers model that cannot be used, with the reason."""
    return UserError(
        Bilingual(
            f"config.json: {model_type!r} of transformers cannot be used here: {english}",
            f"config.json：此处无法使用 transformers 的 {model_type!r}：{chinese}",
        )
    )


def probe_attention(model: Any, model_type: str) -> list[ProbedAttention]:
    """Every attention of a transformers model, in the order of the layers. Raises UserError where ours cannot replace one."""
    probe = AttentionProbe()
    ids = torch.zeros((1, 2), dtype=torch.long, device=next(model.parameters()).device)
    try:
        with torch.no_grad():
            model.base_model(input_ids=ids, position_ids=torch.zeros_like(ids), use_cache=False, **{CONTEXT: probe})
    except Exception as error:  # transformers may raise anything
        dropped = isinstance(error, KeyError) and CONTEXT in str(error)
        reason = "keyword arguments do not reach the attention" if dropped else summarize_error(error)
        raise unusable_error(model_type, f"its forward pass failed ({reason}).", f"前向计算失败（{reason}）。") from error
    attentions = probe.attentions
    if not attentions:
        raise unusable_error(
            model_type,
            "its attention cannot be replaced (it does not use AttentionInterface).",
            "其注意力不使用 AttentionInterface，无法替换。",
        )
    if unsupported := sorted({name for attention in attentions for name in attention.unsupported}):
        names = ", ".join(map(repr, unsupported))
        raise unusable_error(model_type, f"its attention takes {names}, which ours does not support.", f"其注意力用到不支持的 {names}。")
    layers = [attention.layer for attention in attentions]
    if layers != list(range(len(attentions))):
        raise unusable_error(
            model_type, f"its layers are not numbered 0, 1, 2 ..., but {layers[:6]}.", f"其各层编号不是 0、1、2……，而是 {layers[:6]}。"
        )
    shapes = {(attention.num_kv_heads, attention.key_dim) for attention in attentions}
    if len(shapes) > 1 or any(attention.key_dim != attention.value_dim for attention in attentions):
        raise unusable_error(model_type, "its keys and values do not have the same size in all layers.", "其各层的键、值大小不一致。")
    return attentions


def summarize_error(error: Exception) -> str:
    """An exception on one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
