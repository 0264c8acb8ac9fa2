from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface

from imprint.messages import UserError
from imprint.models.head_probe import LogitRule, probe_logits
from imprint.models.hf import ATTENTION, attention_function
from tests import reference_models

Rule = Callable[[Tensor], Tensor]


def model_with(rule: Rule, kind: str = "llama") -> Any:
    """A transformers model whose logits go through the rule at last."""
    AttentionInterface.register(ATTENTION, attention_function)
    model = reference_models.random_model(kind, {**reference_models.FIELDS, "ffn_dim": 48} if kind == "opt" else reference_models.FIELDS)
    model.config._attn_implementation = ATTENTION
    forward = model.forward

    def changed(*arguments: Any, **named: Any) -> Any:
        out = forward(*arguments, **named)
        out.logits = rule(out.logits)
        return out

    model.forward = changed
    return model


@pytest.mark.parametrize("kind", ["llama", "opt"])
@pytest.mark.parametrize(
    ("rule", "scale", "cap"),
    [
        (lambda logits: logits, 1.0, None),
        (lambda logits: logits / 16, 0.0625, None),
        (lambda logits: logits * -3, -3.0, None),
        (lambda logits: 30 * torch.tanh(logits / 30), 1.0, 30.0),
        (lambda logits: 15 * torch.tanh(0.1 * logits / 15), 0.1, 15.0),
        (lambda logits: torch.tanh(logits), 1.0, 1.0),
    ],
)
def test_scale_and_cap_are_found(kind: str, rule: Rule, scale: float, cap: float | None) -> None:
    found = probe_logits(model_with(rule, kind))

    assert found.scale == pytest.approx(scale, rel=1e-5)
    assert found.cap == (None if cap is None else pytest.approx(cap, rel=1e-6))


@pytest.mark.parametrize(
    "rule",
    [lambda logits: logits**3, lambda logits: logits.clamp(-20, 20), lambda logits: logits + 1, lambda logits: logits.log_softmax(-1)],
)
def test_anything_else_is_refused(rule: Rule) -> None:
    with pytest.raises(UserError, match=r"'llama' of transformers cannot be used here: its logits are neither the product with the head"):
        probe_logits(model_with(rule))


def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(UserError, match="what it computes from its logits cannot be probed"):
        probe_logits(model_with(lambda logits: logits[..., :3]))


def test_a_rule_computes_the_logits_of_a_product() -> None:
    product = torch.tensor([-1e6, 0.0, 2.0, 1e6])

    assert LogitRule(0.5).apply(product).tolist() == [-5e5, 0.0, 1.0, 5e5]
    assert LogitRule(0.5, 3.0).apply(product).tolist() == pytest.approx([-3.0, 0.0, 3 * 0.3215, 3.0], rel=1e-3)
