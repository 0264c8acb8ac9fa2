from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from imprint.errors import UserError
from imprint.models.hf import ATTENTION, routed
from imprint.models.survey import Attention, in_short, survey

FIELDS = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": 8,
}


def classes(kind: str, **change: object) -> Any:
    AttentionInterface.register(ATTENTION, routed)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**FIELDS, **change}), attn_implementation=ATTENTION).eval()


def test_every_attention_is_found_in_the_order_of_the_layers_without_a_number() -> None:
    found = survey(classes("mistral", sliding_window=8), "refused:")

    assert found == [Attention(layer, heads=2, size=4, value_size=4, window=8, strange=()) for layer in range(2)]


def test_what_ours_does_not_know_is_named() -> None:
    with pytest.raises(UserError, match=r"^refused: its attention is handed 'softcap', which ours does not know\.$"):
        survey(classes("gemma2"), "refused:")


def test_layers_that_are_counted_otherwise_are_refused() -> None:
    causal = classes("llama")
    causal.model.layers[1].self_attn.layer_idx = 5

    with pytest.raises(UserError, match=r"^refused: its attentions are not counted 0, 1, 2 \.\.\., but \[0, 5\]\.$"):
        survey(causal, "refused:")


def test_an_attention_that_sees_what_comes_is_refused() -> None:
    causal = classes("llama")
    causal.model.layers[0].self_attn.is_causal = False

    with pytest.raises(UserError, match="is handed 'attention in both directions'"):
        survey(causal, "refused:")


def test_layers_of_several_sizes_are_refused() -> None:
    causal, other = classes("llama"), classes("llama", num_key_value_heads=4)
    causal.model.layers[1] = other.model.layers[1]

    with pytest.raises(UserError, match=r"^refused: its keys and values are not of one size in all layers\.$"):
        survey(causal, "refused:")


def test_an_exception_is_said_on_one_short_line() -> None:
    assert in_short(ValueError("a\n  b " + "c" * 300)) == "ValueError: a b " + "c" * 196
