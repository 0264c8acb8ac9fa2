from pathlib import Path

import pytest
import torch

from imprint.models.configs.unread import COMPUTATIONS, unread_notice
from imprint.models.families import build_network
from tests import reference_models
from tests.bases import FAMILIES
from tests.cases import small_fields, write_config

SIZES = {
    "llama": reference_models.FIELDS,
    "gemma3_text": reference_models.FIELDS,
    "glm": reference_models.FIELDS,
    "starcoder2": reference_models.FIELDS,
    "bloom": {**FAMILIES["BLOOM"][1], "vocab_size": 60},
    "chatglm": small_fields(),
}


def told(folder: Path, capsys: pytest.CaptureFixture[str], kind: str, **more: object) -> str:
    """What is printed when a network is built from these fields."""
    fields = {**SIZES[kind], "model_type": kind, **more}
    with torch.device("meta"):
        build_network(fields, write_config(folder, fields))
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("llama", "final_logit_softcapping", 30.0),
        ("llama", "logit_scale", 0.25),
        ("llama", "use_qk_norm", True),
        ("gemma3_text", "logits_scaling", 8.0),
        ("bloom", "rope_scaling", {"type": "linear", "factor": 2.0}),
        ("bloom", "sliding_window", 128),
        ("bloom", "rope_parameters", {"rope_type": "default", "rope_theta": 5e5}),
        ("chatglm", "rope_ratio", 4),
        ("chatglm", "rope_theta", 5e5),
        ("llama", "norm_eps", 0.5),
        ("llama", "hidden_activation", "relu"),
        ("llama", "partial_rotary_factor", 0.5),
        ("bloom", "layernorm_epsilon", 0.5),
        ("chatglm", "layer_norm_eps", 0.5),
    ],
)
def test_a_computation_that_an_architecture_does_not_have_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, field: str, value: object
) -> None:
    assert f'config.json: no effect has "{field}": the architecture of this' in told(tmp_path, capsys, kind, **{field: value})


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("llama", {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}, "attention_bias": True, "mlp_bias": True}),
        ("llama", {"sliding_window": None, "logit_scale": 1.0, "layer_types": ["full_attention"] * 2, "use_sliding_window": False}),
        ("gemma3_text", {"final_logit_softcapping": 30.0, "sliding_window": 16, "query_pre_attn_scalar": 8}),
        ("gemma3_text", {"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}),
        (
            "starcoder2",
            {"activation_function": "gelu", "hidden_act": "gelu_pytorch_tanh", "layer_norm_epsilon": 1e-05, "norm_epsilon": 1e-05},
        ),
        ("glm", {"partial_rotary_factor": 0.25, "rms_norm_eps": 0.5, "hidden_act": "relu"}),
        ("bloom", {"layer_norm_epsilon": 0.5, "apply_residual_connection_post_layernorm": True}),
        ("chatglm", {"layernorm_epsilon": 0.5}),
        ("bloom", {"attention_dropout": 0.1, "offset_alibi": 100, "rope_scaling": None}),
    ],
)
def test_what_is_read_or_asks_for_nothing_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, fields: dict[str, object]
) -> None:
    assert told(tmp_path, capsys, kind, **fields) == ""


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"factor": 4.0}, "rope_scaling.factor"),
        ({"type": "linear", "rope_type": "default", "factor": 4.0}, "rope_scaling.factor"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_what_a_section_of_positions_asks_for_in_vain_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], section: dict[str, object], named: str
) -> None:
    assert f'no effect has "{named}"' in told(tmp_path, capsys, "llama", rope_scaling=section)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "rope_theta beside rope_parameters"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}}, "rope_parameters beside"),
    ],
)
def test_positions_that_are_given_twice_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, object], named: str
) -> None:
    assert f'no effect has "{named}' in told(tmp_path, capsys, "llama", **fields)


def test_it_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(tmp_path, capsys, "bloom", logit_scale=0.5)
    assert not told(tmp_path, capsys, "bloom", logit_scale=0.5)


def test_all_names_are_in_one_sentence() -> None:
    notice = unread_notice("f", dict.fromkeys(COMPUTATIONS, 7), ())

    assert notice is not None
    assert all(f'"{name}"' in notice.english and f'"{name}"' in notice.chinese for name in COMPUTATIONS)
    assert unread_notice("f", dict.fromkeys(COMPUTATIONS, 7), COMPUTATIONS) is None
