"""What the attentions of transformers' classes ask for, found by a pass without numbers, and whether ours can stand in for them.

Legend: T tokens, H heads of keys and values, D head size.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from imprint.errors import UserError

PASS = "imprint_pass"
"""The keyword argument by which a pass reaches every attention."""
HARMLESS = frozenset({"dropout", "scaling", "sliding_window", "is_causal", "position_ids", "cache_position", "use_cache", PASS})
"""What an attention may be handed without another result than ours."""


@dataclass(frozen=True)
class Attention:
    """What one attention of the classes has asked for."""

    layer: int | None
    """Its number, counted from 0."""
    heads: int
    """Heads of its keys and values."""
    size: int
    """Numbers of a key in one head."""
    value_size: int
    """Numbers of a value in one head."""
    window: int | None
    """Tokens that it looks back; None for all."""
    strange: tuple[str, ...]
    """What it was handed that ours does not know."""


@dataclass
class Survey:
    """Goes through the classes in place of a Pass and notes every attention."""

    found: list[Attention] = field(default_factory=list)

    def note(self, module: nn.Module, key: Tensor, value: Tensor, handed: dict[str, Any]) -> None:
        """Key and value (1, H, T, D)."""
        strange = [name for name, given in handed.items() if name not in HARMLESS and given is not None and given is not False]
        if handed.get("is_causal") is False or getattr(module, "is_causal", True) is False:
            strange.append("attention in both directions")
        layer, window = getattr(module, "layer_idx", None), handed.get("sliding_window")
        self.found.append(Attention(layer, key.shape[1], key.shape[3], value.shape[3], window, tuple(strange)))


def survey(causal: Any, refusal: str) -> list[Attention]:
    """Every attention in the order of the layers. Raises UserError, which begins with `refusal`, where ours cannot stand in for them."""
    seen = Survey()
    ids = torch.zeros((1, 2), dtype=torch.long, device=next(causal.parameters()).device)
    try:
        with torch.no_grad():
            causal.base_model(input_ids=ids, position_ids=torch.zeros_like(ids), use_cache=False, **{PASS: seen})
    except Exception as error:  # the classes may do anything
        reason = "they do not hand on what an attention needs" if isinstance(error, KeyError) and PASS in str(error) else in_short(error)
        raise UserError(f"{refusal} a pass through its classes failed ({reason}).") from error
    found = seen.found
    if not found:
        raise UserError(f"{refusal} its attention cannot be replaced (its classes do not ask AttentionInterface).")
    if strange := sorted({name for attention in found for name in attention.strange}):
        raise UserError(f"{refusal} its attention is handed {', '.join(map(repr, strange))}, which ours does not know.")
    if [attention.layer for attention in found] != list(range(len(found))):
        raise UserError(f"{refusal} its attentions are not counted 0, 1, 2 ..., but {[attention.layer for attention in found][:6]}.")
    if len({(attention.heads, attention.size) for attention in found}) > 1 or any(one.size != one.value_size for one in found):
        raise UserError(f"{refusal} its keys and values are not of one size in all layers.")
    return found


def in_short(error: Exception) -> str:
    """What an exception says, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
