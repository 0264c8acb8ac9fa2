from pathlib import Path
from typing import Any

import pytest

from imprint.messages import UserError
from imprint.models.gguf_settings import refuse_settings_of_another, refuse_unread_settings

FIELDS = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "head_dim": 32,
    "sliding_window": 512,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "sliding_attention": {"rope_theta": 10000.0},
        "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0, "partial_rotary_factor": 0.5},
    },
    "final_logit_softcapping": 30.0,
}
"""Fields of a config.json of transformers."""


def refused(**settings: Any) -> str:
    """What is said of these settings of an architecture `x`; '' where they are read."""
    metadata = {"general.architecture": "x", **{f"x.{name.replace('__', '.')}": value for name, value in settings.items()}}
    try:
        refuse_unread_settings(Path("a.gguf"), metadata, FIELDS)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attention__head_count", 4),
        ("attention__key_length", 32),
        ("attention__value_length", 32),
        ("attention__sliding_window", 512),
        ("attention__layer_norm_rms_epsilon", 9.999999974752427e-07),
        ("rope__dimension_count", 16),
        ("rope__freq_base", 1000000.0),
        ("rope__freq_base_swa", 10000.0),
        ("rope__scaling__type", "linear"),
        ("rope__scaling__factor", 8.0),
        ("final_logit_softcapping", 30.0),
    ],
)
def test_a_setting_is_taken_with_the_value_of_the_fields_and_refused_with_another(name: str, value: float | str) -> None:
    assert refused(**{name: value}) == ""
    other = "yarn" if isinstance(value, str) else value * 2
    assert f"a.gguf: transformers does not read x.{name.replace('__', '.')} {other}: the model would compute something else" in refused(
        **{name: other}
    )


@pytest.mark.parametrize(
    ("name", "neutral", "meant"),
    [
        ("attn_logit_softcapping", 0.0, 1.0),
        ("attention__causal", True, False),
        ("attention__clamp_kqv", 0.0, 8.0),
        ("attention__max_alibi_bias", 0.0, 8.0),
        ("embedding_scale", 1.0, 12.0),
        ("logit_scale", 1.0, 0.1),
        ("nextn_predict_layers", 0, 1),
        ("residual_scale", 1.0, 0.5),
        ("rope__scaling__attn_factor", 1.0, 1.2),
        ("rope__scaling__yarn_ext_factor", 0.0, 1.0),
        ("expert_weights_scale", 1.0, 2.5),
    ],
)
def test_a_value_that_changes_nothing_is_read_and_another_is_not(name: str, neutral: float, meant: float) -> None:
    assert refused(**{name: neutral}) == ""
    assert f"x.{name.replace('__', '.')} {meant}" in refused(**{name: meant})


def test_a_window_as_long_as_the_context_is_none() -> None:
    assert refused(attention__sliding_window=4096, context_length=4096) == ""
    assert "x.attention.sliding_window 4095" in refused(attention__sliding_window=4095, context_length=4096)


def test_settings_that_nobody_knows_and_lists_are_refused_five_of_them_by_name() -> None:
    assert "x.attention.head_count [4, 8]" in refused(attention__head_count=[4, 8])
    assert "x.n1 0, x.n2 0, x.n3 0, x.n4 0, x.n5 0 and 2 more" in refused(**{f"n{index}": 0 for index in range(1, 8)})


def test_what_other_programs_noted_is_no_setting_of_another_architecture() -> None:
    noted = {"general.architecture": "x", "quantize.imatrix.file": "a", "tokenizer.ggml.model": "gpt2", "x.block_count": 2}
    refuse_settings_of_another(noted)
    with pytest.raises(ValueError, match=r"it has y\.block_count, and its architecture is x"):
        refuse_settings_of_another({**noted, "y.block_count": 10**9})
