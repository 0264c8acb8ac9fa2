"""A probe of transformers' classes: one pass on the meta device that records what each attention is given, and whether ours can replace it.

Legend: T tokens, H heads of keys and values, D head size.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from imprint.errors import UserError

CONTEXT = "imprint_context"
"""The keyword argument that carries a ForwardContext, or the probe, to every attention."""
IGNORED_ARGUMENTS = frozenset({"dropout", "scaling", "sliding_window", "is_causal", "position_ids", "cache_position", "use_cache", CONTEXT})
"""Keyword arguments of an attention that do not change its result here."""


@dataclass(frozen=True)
class ProbedAttention:
    """What one attention of the classes was given."""

    layer: int | None
    """Index of the layer, from 0."""
    num_kv_heads: int
    """Heads of its keys and values."""
    key_dim: int
    """Size of a key in one head."""
    value_dim: int
    """Size of a value in one head."""
    window: int | None
    """Sliding window in tokens; None for full attention."""
    unsupported: tuple[str, ...]
    """Names of arguments that our attention does not have."""


@dataclass
class AttentionProbe:
    """Passed in place of a ForwardContext; records every attention."""

    attentions: list[ProbedAttention] = field(default_factory=list)

    def record(self, module: nn.Module, key: Tensor, value: Tensor, arguments: dict[str, Any]) -> None:
        """Record an attention: key and value (1, H, T, D)."""
        unsupported = [
            name for name, given in arguments.items() if name not in IGNORED_ARGUMENTS and given is not None and given is not False
        ]
        if arguments.get("is_causal") is False or getattr(module, "is_causal", True) is False:
            unsupported.append("attention in both directions")
        layer, window = getattr(module, "layer_idx", None), arguments.get("sliding_window")
        self.attentions.append(ProbedAttention(layer, key.shape[1], key.shape[3], value.shape[3], window, tuple(unsupported)))


def probe_attention(causal: Any, refusal: str) -> list[ProbedAttention]:
    """Every attention in the order of the layers. Raises UserError, which begins with `refusal`, where ours cannot replace one."""
    probe = AttentionProbe()
    ids = torch.zeros((1, 2), dtype=torch.long, device=next(causal.parameters()).device)
    try:
        with torch.no_grad():
            causal.base_model(input_ids=ids, position_ids=torch.zeros_like(ids), use_cache=False, **{CONTEXT: probe})
    except Exception as error:  # the classes may raise anything
        dropped = isinstance(error, KeyError) and CONTEXT in str(error)
        reason = "they do not hand on what an attention needs" if dropped else summarize_error(error)
        raise UserError(f"{refusal} a pass through its classes failed ({reason}).") from error
    attentions = probe.attentions
    if not attentions:
        raise UserError(f"{refusal} its attention cannot be replaced (its classes do not ask AttentionInterface).")
    if unsupported := sorted({name for attention in attentions for name in attention.unsupported}):
        raise UserError(f"{refusal} its attention is handed {', '.join(map(repr, unsupported))}, which ours does not know.")
    if [attention.layer for attention in attentions] != list(range(len(attentions))):
        raise UserError(f"{refusal} its attentions are not counted 0, 1, 2 ..., but {[attention.layer for attention in attentions][:6]}.")
    shapes = {(attention.num_kv_heads, attention.key_dim) for attention in attentions}
    if len(shapes) > 1 or any(attention.key_dim != attention.value_dim for attention in attentions):
        raise UserError(f"{refusal} its keys and values are not of one size in all layers.")
    return attentions


def summarize_error(error: Exception) -> str:
    """An exception on one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
