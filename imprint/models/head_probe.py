"""Finds out what a transformers model computes from the product of hidden states and head: a scale, a soft cap, or more.

Legend: C hidden size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from imprint.models.attention_probe import CONTEXT, AttentionProbe, summarize_error, unusable_error
from imprint.models.loss import soft_cap

MAGNITUDES = (-4, 6)
"""Powers of ten of the probed values: from where a cap does nothing to where it is all that is left."""
TOLERANCE = 1e-4
"""Largest accepted difference from the found scale and cap, as a share of each value."""
NAME_PARTS = ("logit", "softcap", "lm_head", "dim_model_base")
"""Parts of the names of fields that set such a computation."""


@dataclass(frozen=True)
class LogitRule:
    """How logits follow from the product x of hidden states and head: scale x, or cap tanh(scale x / cap)."""

    scale: float = 1.0
    cap: float | None = None

    def apply(self, product: Tensor) -> Tensor:
        """The logits of a product, of the same shape."""
        return soft_cap(product * self.scale, self.cap)


def probe_logits(model: Any) -> LogitRule:
    """The rule of a transformers model, whose weights need no values. Raises UserError where it is neither a scale nor a cap."""
    model_type = model.config.model_type
    try:
        values, logits = _run_head(model)
    except Exception as error:  # transformers may raise anything
        reason = summarize_error(error)
        raise unusable_error(
            model_type, f"what it computes from its logits cannot be probed ({reason}).", f"无法探测它如何处理 logits（{reason}）。"
        ) from error
    largest = float(logits.abs().max())
    scale = float(logits[0, 0] / values[0, 0])
    capped = abs(largest) < 0.5 * abs(scale) * float(values.abs().max())
    rule = LogitRule(scale, largest if capped else None)
    if not bool(((rule.apply(values) - logits).abs() <= TOLERANCE * logits.abs()).all()):
        fields = ", ".join(
            f'"{name}": {value!r}' for name, value in model.config.to_dict().items() if any(part in name for part in NAME_PARTS)
        )
        raise unusable_error(
            model_type,
            f"its logits are neither the product with the head, nor that times a number or under a soft cap (config.json: "
            f"{fields or 'no such field'}).",
            f"其 logits 不是与输出层的乘积，也不是它乘以一个数或加软上限（config.json：{fields or '无相关字段'}）。",
        )
    return LogitRule(1.0 if abs(scale - 1) < 1e-6 else scale, rule.cap)


def _run_head(model: Any) -> tuple[Tensor, Tensor]:
    """Values in place of the product, and the logits that the model makes of them, both (2, C).

    The base model runs without values, as in the probe of attentions; then its result is replaced by the values, and the head returns its
    input.
    """
    base, head = model.base_model, model.get_output_embeddings()
    with torch.device("cpu"):
        magnitudes = torch.logspace(*MAGNITUDES, head.weight.shape[1])
        values = torch.stack((magnitudes, -magnitudes))

    def replace_result(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if getattr(output, "last_hidden_state", None) is not None:
            output.last_hidden_state = values[None]

    hooks = [module.register_forward_hook(replace_result) for module in (base, *base.children())]  # some heads follow a `decoder` in it
    head.forward, forward = (lambda states: states), head.forward
    ids = torch.zeros((1, 2), dtype=torch.long, device=head.weight.device)
    try:
        with torch.no_grad():
            logits: Tensor = model(input_ids=ids, position_ids=ids, use_cache=False, **{CONTEXT: AttentionProbe()}).logits
    finally:
        head.forward = forward
        for hook in hooks:
            hook.remove()
    if logits.shape != (1, *values.shape) or logits.is_meta:
        raise ValueError(f"logits of the shape {tuple(logits.shape)} instead of {(1, *values.shape)}")
    return values, logits[0].float()
