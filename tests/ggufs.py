"""A tiny GGUF file."""

import json
from collections.abc import Mapping
from pathlib import Path

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
