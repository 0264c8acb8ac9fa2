"""Every causal language model of transformers, tiny and random: it computes here what it computes there, or is refused with a sentence."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from imprint.messages import UserError
from imprint.models.checkpoint import load_network
from tests import reference_models
from tests.reference_models import FIELDS, LABELS, ROWS, our_logits, our_loss

SIZES: Mapping[str, object] = {
    **FIELDS,
    **dict.fromkeys(("n_embd", "d_model", "dim", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("n_layer", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("n_head", "num_heads", "decoder_attention_heads", "encoder_attention_heads", "mamba_n_heads"), 4),
    **dict.fromkeys(("n_inner", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "ffn_hidden_size", "hidden_dim"), 48),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "mamba_d_state"), 4),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "q_lora_rank", "kv_lora_rank", "v_head_dim"), 8),
    **dict.fromkeys(("global_head_dim", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("n_shared_experts",), 1),
    "n_positions": 64,
    "num_experts_per_tok": 2,
    "vocab_size_per_layer_input": 60,
    "mamba_d_head": 16,
    "mamba_d_ssm": 64,
}
"""Sizes of a small network under every name that they have."""
SCALES: Mapping[str, object] = {
    "logits_scaling": 4.0,
    "logit_scale": 0.25,
    "final_logit_softcapping": 3.0,
    "output_logit_soft_cap": 3.0,
    "softcap": 3.0,
    "lm_head_multiplier": 0.3,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.4,
    "query_pre_attn_scalar": 5,
    "scale_attn_by_inverse_layer_idx": True,
    "attention_bias": True,
    "mlp_bias": True,
    "qkv_bias": True,
    "clip_qkv": 0.7,
    "partial_rotary_factor": 0.5,
    "tie_word_embeddings": True,
    "use_parallel_residual": False,
    "layer_norm_epsilon": 0.01,
    "rms_norm_eps": 0.01,
}
"""Fields that change numbers, with values that no class has by default."""
MAX_PARAMETERS = 3_000_000


VARIANTS: tuple[Mapping[str, object], ...] = (
    {},
    {"head_dim": ...},
    {"num_key_value_heads": ...},
    {"num_key_value_heads": 4, "head_dim": 4},
    {"head_dim": ..., "num_key_value_heads": ...},
    {"num_experts_per_tok": 1},
    {"layer_types": ["full_attention"] * 2},
    {"num_hidden_layers": 4, "num_layers": 4},
)
"""Further changes that let some classes be made small; ... leaves a field out."""


def small_model(model_type: str, changed: Mapping[str, object]) -> Any:
    """A small random model of a kind that transformers itself can run, by fields that its configuration knows; None if there is none."""
    try:
        config = AutoConfig.for_model(model_type)
    except Exception:  # some have no valid defaults
        return None
    known = {*config.to_dict(), *config.attribute_map}
    for variant in VARIANTS:
        chosen = {name: value for name, value in {**SIZES, **changed, **variant}.items() if name in known and value is not ...}
        try:
            with torch.device("meta"):
                empty = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **chosen))
            if sum(parameter.numel() for parameter in empty.parameters()) > MAX_PARAMETERS:
                return None  # such as a network of several parts, whose sections have sizes of their own
            model = reference_models.random_model(model_type, chosen)
            with torch.no_grad():
                reference_models.logits(model, ROWS[0])
        except Exception:  # each class checks its fields in its own way
            continue
        return model
    return None


def outcome(model_type: str, folder: Path, changed: Mapping[str, object]) -> str:
    """`equal`, `refused`, `not made`, or what is wrong."""
    model = small_model(model_type, changed)
    try:
        reference_models.saved(model, folder)
        with torch.no_grad():
            expected = [reference_models.logits(model, row) for row in ROWS]
            loss = float(reference_models.loss(model, ROWS, LABELS))
    except Exception:  # transformers cannot save or run it
        return "not made"
    try:
        network = load_network(folder, dtype=torch.float32, device=torch.device("cpu"))
        with torch.no_grad():
            found, our = our_logits(network, ROWS), float(our_loss(network))
    except UserError as error:
        english, _, chinese = str(error).partition("\n")
        return "refused" if english and chinese else f"{model_type}: half a sentence: {error}"
    except Exception as error:  # this is what must not be
        return f"{model_type}: {type(error).__name__}: {error}"
    largest = max(1.0, *(float(logits.abs().max()) for logits in expected))
    gap = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
    if gap <= 1e-4 * largest and abs(our - loss) <= 1e-4 * max(1.0, loss):
        return "equal"
    return f"{model_type}: logits differ by {gap:.3g} of {largest:.3g}, the loss is {our:.5f} instead of {loss:.5f}"


@pytest.mark.long
@pytest.mark.parametrize("changed", [{}, SCALES], ids=["default", "changed"])
def test_every_kind_computes_the_same_or_is_refused(
    changed: Mapping[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {
            model_type: outcome(model_type, tmp_path / model_type, changed) for model_type in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
        }

    assert [value for value in found.values() if value not in {"equal", "refused", "not made"}] == []
    assert sum(value == "equal" for value in found.values()) >= 40
    assert sum(value in {"equal", "refused"} for value in found.values()) >= 100
