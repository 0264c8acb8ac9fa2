from typing import Any

import pytest
import torch
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from imprint.messages import UserError
from imprint.models.attention_probe import ProbedAttention, probe_attention, summarize_error
from imprint.models.hf import ATTENTION, attention_function

FIELDS = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": 8,
}


def build(kind: str, **change: object) -> Any:
    AttentionInterface.register(ATTENTION, attention_function)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**FIELDS, **change}), attn_implementation=ATTENTION).eval()


def test_every_attention_is_recorded_in_the_order_of_the_layers() -> None:
    attentions = probe_attention(build("mistral", sliding_window=8), "own")

    assert attentions == [ProbedAttention(layer, num_kv_heads=2, key_dim=4, value_dim=4, window=8, unsupported=()) for layer in range(2)]


def test_an_unsupported_argument_is_named() -> None:
    with pytest.raises(
        UserError, match=r"'own' of transformers cannot be used here: its attention takes 'softcap', which ours does not support\.\n"
    ):
        probe_attention(build("gemma2"), "own")


def test_layers_that_are_numbered_otherwise_are_refused() -> None:
    model = build("llama")
    model.model.layers[1].self_attn.layer_idx = 5

    with pytest.raises(UserError, match=r"here: its layers are not numbered 0, 1, 2 \.\.\., but \[0, 5\]\.\n"):
        probe_attention(model, "own")


def test_bidirectional_attention_is_refused() -> None:
    model = build("llama")
    model.model.layers[0].self_attn.is_causal = False

    with pytest.raises(UserError, match="its attention takes 'bidirectional attention'"):
        probe_attention(model, "own")


def test_layers_of_several_sizes_are_refused() -> None:
    model, other = build("llama"), build("llama", num_key_value_heads=4)
    model.model.layers[1] = other.model.layers[1]

    with pytest.raises(UserError, match=r"here: its keys and values do not have the same size in all layers\.\n"):
        probe_attention(model, "own")


def test_an_exception_is_summarized_on_one_short_line() -> None:
    assert summarize_error(ValueError("a\n  b " + "c" * 300)) == "ValueError: a b " + "c" * 196
