"""Tiny GGUF files."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tests.families import tokenizer_json

HIDDEN, LAYERS, HEADS, INNER = 16, 2, 2, 32
SHAPES = {
    "attn_norm": (HIDDEN,),
    "ffn_norm": (HIDDEN,),
    **{f"attn_{name}": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "output")},
    "ffn_gate": (INNER, HIDDEN),
    "ffn_up": (INNER, HIDDEN),
    "ffn_down": (HIDDEN, INNER),
}
LARGE = 1000
"""A vocabulary of so many tokens is left out, which takes long to read."""
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def gguf_file(
    path: Path,
    metadata: Mapping[str, object],
    *,
    settings: Mapping[str, float | str] | None = None,
    tensors: Mapping[str, int] | None = None,
) -> Path:
    """A LLaMA of two layers with random weights and a byte-level vocabulary.

    `metadata` are further keys of its tokenizer, `settings` of the architecture; `tensors`: name -> size of further vectors of ones.
    """
    fields = json.loads(tokenizer_json())
    vocabulary = {**fields["model"]["vocab"], **{token["content"]: token["id"] for token in fields["added_tokens"]}}
    special = {token["id"] for token in fields["added_tokens"] if token["special"]}
    names = sorted(vocabulary, key=vocabulary.__getitem__)
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_license("apache-2.0")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(names))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    writer.add_token_types([3 if index in special else 1 for index in range(len(names))])
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in fields["model"]["merges"]])
    writer.add_bos_token_id(vocabulary["<s>"])
    writer.add_eos_token_id(vocabulary["</s>"])
    for name, value in metadata.items():
        {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}[type(value)](f"tokenizer.{name}", value)  # type: ignore[operator]
    for name, setting in (settings or {}).items():
        {float: writer.add_float32, int: writer.add_uint32, str: writer.add_string}[type(setting)](f"llama.{name}", setting)  # type: ignore[operator]
    numbers = np.random.default_rng(7)
    shapes = {f"blk.{layer}.{name}.weight": shape for layer in range(LAYERS) for name, shape in SHAPES.items()}
    shapes |= {"token_embd.weight": (len(names), HIDDEN), "output.weight": (len(names), HIDDEN), "output_norm.weight": (HIDDEN,)}
    for name, shape in shapes.items():
        writer.add_tensor(name, (0.3 * numbers.standard_normal(shape)).astype(np.float16 if len(shape) > 1 else np.float32))
    for name, size in (tensors or {}).items():
        writer.add_tensor(name, np.ones(size, np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        write()
    return path


def converted_file(
    path: Path,
    architecture: str,
    model: Any,
    settings: Mapping[str, object],
    tensors: Mapping[str, np.ndarray[Any, Any]] = MappingProxyType({}),
) -> Path:
    """A model of transformers as llama.cpp's converter writes it, in float32, with a vocabulary of its size and without merges.

    `settings`: keys of the architecture beside its shapes; `tensors`: name -> values, further ones, or others than the model's; bytes are
    of Q4_0.
    """
    import gguf

    config = model.config
    heads, groups = config.num_attention_heads, getattr(config, "num_key_value_heads", config.num_attention_heads)
    inner = getattr(config, "intermediate_size", None) or getattr(config, "ffn_hidden_size", None) or 4 * config.hidden_size
    shapes = {"block_count": config.num_hidden_layers, "embedding_length": config.hidden_size, "feed_forward_length": inner}
    counts = {"attention.head_count": heads, "attention.head_count_kv": groups, "context_length": 128}
    writer = gguf.GGUFWriter(path, architecture)
    add = {float: writer.add_float32, int: writer.add_uint32, str: writer.add_string, bool: writer.add_bool}
    for name, value in (shapes | counts | {"vocab_size": config.vocab_size} | dict(settings)).items():
        add[type(value)](f"{architecture}.{name}", value)  # type: ignore[operator]
    writer.add_token_list([f"t{index}" for index in range(config.vocab_size)] if config.vocab_size < LARGE else [])
    number = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    written = {}
    for name, tensor in model.state_dict().items():
        base, _, kind = name.rpartition(".")
        if not (config.tie_word_embeddings and base == "lm_head"):
            found = f"{names.get_name(base) or names.get_name(base.removeprefix('transformer.'))}.{kind}"
            written[found] = _as_converted(architecture, found, tensor.numpy(), heads, groups)
    for name, values in (written | dict(tensors)).items():
        bits = gguf.GGMLQuantizationType.Q4_0 if values.dtype == np.uint8 else None
        writer.add_tensor(name, np.ascontiguousarray(values), raw_dtype=bits)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        write()
    return path


def _as_converted(architecture: str, name: str, values: np.ndarray[Any, Any], heads: int, groups: int) -> np.ndarray[Any, Any]:
    """Values in the order in which llama.cpp keeps them: `permute` and `modify_tensors` in its convert_hf_to_gguf.py."""
    rows = values.shape[1:]
    if architecture == "llama" and "attn_q." in name:
        return values.reshape(heads, 2, -1, *rows).swapaxes(1, 2).reshape(values.shape)
    if architecture == "llama" and "attn_k." in name:
        return values.reshape(groups, 2, -1, *rows).swapaxes(1, 2).reshape(values.shape)
    if architecture == "bloom" and "attn_qkv" in name:
        return values.reshape(heads, 3, -1, *rows).swapaxes(0, 1).reshape(values.shape)
    if architecture == "gpt2" and name.startswith("blk") and values.ndim > 1:
        return values.T
    return values + 1 if architecture == "gemma3" and name.endswith("norm.weight") else values
