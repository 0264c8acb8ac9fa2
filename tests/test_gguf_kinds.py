"""GGUF files of the architectures that imprint reads, made of tiny random models of transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imprint.messages import UserError
from imprint.models.gguf import read_fields_and_tensors, read_metadata
from tests.ggufs import converted_file

gguf = pytest.importorskip("gguf", reason='it needs gguf: pip install "imprint[gguf]"')

import transformers  # noqa: E402

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
COMMON: dict[str, Any] = {
    **SIZES,
    "max_position_embeddings": 128,
    "vocab_size": 64,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEADS: dict[str, Any] = {"attention.key_length": 16, "attention.value_length": 16}
RMS: dict[str, Any] = {"attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 10000.0}
LAYER_NORM: dict[str, Any] = {"attention.layer_norm_epsilon": 1e-5}
FEW: dict[str, Any] = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64}
PHI: dict[str, Any] = {**COMMON, "vocab_size": 32001, "max_position_embeddings": 128}
MODELS: dict[str, tuple[Callable[[], Any], dict[str, object]]] = {
    "llama": (lambda: transformers.LlamaConfig(**COMMON, tie_word_embeddings=True), {**RMS, "rope.dimension_count": 8}),
    "qwen2": (lambda: transformers.Qwen2Config(**COMMON), RMS),
    "qwen3": (
        lambda: transformers.Qwen3Config(**COMMON, head_dim=128, tie_word_embeddings=True),
        {**RMS, "attention.key_length": 128, "attention.value_length": 128},
    ),
    "phi3": (lambda: transformers.Phi3Config(**PHI), {**RMS, "rope.dimension_count": 8, "rope.scaling.original_context_length": 128}),
    "bloom": (lambda: transformers.BloomConfig(**FEW), LAYER_NORM),
    "gpt2": (lambda: transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=1024, vocab_size=64), LAYER_NORM),
    "starcoder2": (lambda: transformers.Starcoder2Config(**COMMON), {**LAYER_NORM, "rope.freq_base": 10000.0}),
    "gemma3": (
        lambda: transformers.Gemma3TextConfig(**COMMON, head_dim=16, sliding_window=32),
        {**RMS, **HEADS, "rope.freq_base": 1e6, "attention.sliding_window": 32},
    ),
}
"""Architecture -> what makes its config, and its settings in a file."""


def _random(architecture: str) -> tuple[Any, dict[str, object]]:
    """A random model of an architecture, and the settings of its file."""
    config, settings = MODELS[architecture]
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config()), settings


@pytest.mark.parametrize("architecture", MODELS)
def test_the_weights_of_a_converted_model_are_those_of_the_model(architecture: str, tmp_path: Path) -> None:
    model, settings = _random(architecture)
    file = converted_file(tmp_path / "tiny.gguf", architecture, model, settings)
    fields, tensors = read_fields_and_tensors(file, read_metadata(file), torch.float32)
    assert type(model).__name__ in fields["architectures"]
    assert tensors.keys() >= {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(tensors[name], parameter.detach())


def test_a_head_that_is_another_than_the_embedding_is_refused_where_they_are_one(tmp_path: Path) -> None:
    model, settings = _random("bloom")
    embedding = model.get_input_embeddings().weight.detach().numpy()
    equal = converted_file(tmp_path / "equal.gguf", "bloom", model, settings, {"output.weight": embedding})
    _fields, tensors = read_fields_and_tensors(equal, read_metadata(equal), torch.float32)
    np.testing.assert_array_equal(tensors["transformer.word_embeddings.weight"].numpy(), embedding)
    other = converted_file(tmp_path / "other.gguf", "bloom", model, settings, {"output.weight": embedding * np.float32(1.1)})
    rounded = gguf.quantize(embedding, gguf.GGMLQuantizationType.Q4_0)
    read_metadata(converted_file(tmp_path / "rounded.gguf", "bloom", model, settings, {"output.weight": rounded}))
    with pytest.raises(
        UserError, match=r"output\.weight is another than token_embd\.weight, and for this architecture they are one tensor"
    ):
        read_metadata(other)


@pytest.mark.parametrize(
    ("settings", "tensors", "named"),
    [
        ({"attention.sliding_window": 64}, {}, "phi3.attention.sliding_window 64"),
        ({}, {"rope_factors_long.weight": 4, "rope_factors_short.weight": 4}, "rope_factors_long.weight, rope_factors_short.weight"),
        ({"rope.scaling.attn_factor": 1.19}, {}, "phi3.rope.scaling.attn_factor 1.19"),
    ],
)
def test_a_phi3_of_a_short_window_or_of_scaled_positions_is_refused_by_name(
    settings: dict[str, object], tensors: dict[str, int], named: str, tmp_path: Path
) -> None:
    model, plain = _random("phi3")
    further = {name: np.ones(size, np.float32) for name, size in tensors.items()}
    file = converted_file(tmp_path / "phi.gguf", "phi3", model, plain | settings, further)
    with pytest.raises(UserError) as refused:
        read_fields_and_tensors(file, read_metadata(file), torch.float32)
    assert named in str(refused.value)
