from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from imprint.errors import UserError
from imprint.models.attention_probe import ProbedAttention, probe_attention, summarize_error
from imprint.models.hf import ATTENTION, attention_hook

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
    AttentionInterface.register(ATTENTION, attention_hook)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**FIELDS, **change}), attn_implementation=ATTENTION).eval()


def test_every_attention_is_found_in_the_order_of_the_layers_without_a_number() -> None:
    found = probe_attention(classes("mistral", sliding_window=8), "refused:")

    assert found == [ProbedAttention(layer, num_kv_heads=2, key_dim=4, value_dim=4, window=8, unsupported=()) for layer in range(2)]


def test_what_ours_does_not_know_is_named() -> None:
    with pytest.raises(UserError, match=r"^refused: its attention is handed 'softcap', which ours does not know\.$"):
        probe_attention(classes("gemma2"), "refused:")


def test_layers_that_are_counted_otherwise_are_refused() -> None:
    causal = classes("llama")
    causal.model.layers[1].self_attn.layer_idx = 5

    with pytest.raises(UserError, match=r"^refused: its attentions are not counted 0, 1, 2 \.\.\., but \[0, 5\]\.$"):
        probe_attention(causal, "refused:")


def test_an_attention_that_sees_what_comes_is_refused() -> None:
    causal = classes("llama")
    causal.model.layers[0].self_attn.is_causal = False

    with pytest.raises(UserError, match="is handed 'attention in both directions'"):
        probe_attention(causal, "refused:")


def test_layers_of_several_sizes_are_refused() -> None:
    causal, other = classes("llama"), classes("llama", num_key_value_heads=4)
    causal.model.layers[1] = other.model.layers[1]

    with pytest.raises(UserError, match=r"^refused: its keys and values are not of one size in all layers\.$"):
        probe_attention(causal, "refused:")


def test_an_exception_is_said_on_one_short_line() -> None:
    assert summarize_error(ValueError("a\n  b " + "c" * 300)) == "ValueError: a b " + "c" * 196
