"""A prefix in peft's files: PREFIX_TUNING and CARTRIDGE, whose tensor has the layout of the original's embedding.

peft counts the prefix as positions where the base has rotary ones, and the original does not, so keys are turned back at reading and
forth at writing; then both give the same logits. Source of the layout: `PeftModel.get_prompt` of peft. Legend: P prefix length, K layers, G
heads of keys and values, D head size.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from imprint.files.atomic import write_json
from imprint.messages import Bilingual, UserError
from imprint.models.network import Network
from imprint.tune.peft_files import CONFIG_FILE, TENSORS_FILE, read_peft_tensors, refuse_unknown
from imprint.tune.prefix import PrefixEncoder, PrefixShape

TENSOR = "prompt_embeddings"
"""Name of the only tensor: (P, K x 2 x G x D)."""
KNOWN_FIELDS = {
    "peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping",
    "num_attention_heads", "num_layers", "num_transformer_submodules", "num_virtual_tokens", "token_dim", "encoder_hidden_size",
    "prefix_projection", "init_weights", "num_frozen_tokens",
}  # fmt: skip
"""Fields that are compared with the base, or that change no number: a projection is computed before saving, and the heads of a token stand
side by side, however many they are."""


def read_peft_prefix(folder: Path, fields: Mapping[str, Any], network: Network) -> PrefixEncoder:
    """The prefix in peft's files. Raises UserError where it is damaged, or belongs to a base of another shape."""
    path = folder / CONFIG_FILE
    refuse_unknown(path, fields, KNOWN_FIELDS, Bilingual("a prefix of one decoder", "单个解码器的前缀"))
    shape = network.shape
    expected = {
        "num_layers": shape.num_layers,
        "token_dim": shape.num_kv_heads * shape.head_dim,
        "num_transformer_submodules": 1,
    }
    for name, value in expected.items():
        if fields.get(name) not in (None, value):
            raise UserError(
                Bilingual(
                    f'{path}: "{name}" is {fields[name]!r}, this base has {value}. Load the prefix with the base it was trained on.',
                    f'{path}："{name}" 为 {fields[name]!r}，而该底座为 {value}：请与其训练时的底座一起使用。',
                )
            )
    tensors = read_peft_tensors(folder)
    values = tensors.get(TENSOR)
    length = fields.get("num_virtual_tokens")
    length = length if isinstance(length, int) and length > 0 else len(values) if values is not None and values.dim() else 1
    sizes = PrefixShape.from_network(network, length, projection=False)
    if values is None or tuple(values.shape) != (length, sizes.width) or not values.is_floating_point():
        found = ", ".join(sorted(tensors)[:3]) if values is None else f"{tuple(values.shape)} of {values.dtype}"
        raise UserError(
            Bilingual(
                f"{folder}: {TENSOR} must be {(length, sizes.width)} for this base and {CONFIG_FILE}, found {found}. Load the prefix "
                "with the base it was trained on.",
                f"{folder}：{TENSOR} 的形状应为 {(length, sizes.width)}，实际为 {found}：请与其训练时的底座一起使用。",
            )
        )
    encoder = PrefixEncoder(sizes).to(network.device)
    with torch.no_grad():
        encoder.embedding.weight.copy_(_rotated(values.to(network.device), sizes, network, -length))
    return encoder


def write_peft_prefix(folder: Path, encoder: PrefixEncoder, network: Network, base: str) -> None:
    """Write peft's two files of a PREFIX_TUNING into a folder that exists; `base` is the name of the base."""
    shape = encoder.shape
    with torch.no_grad():
        pairs = encoder.prefix(torch.float32)
        values = torch.stack([part for pair in pairs for part in pair], 1).reshape(shape.length, shape.width)
        values = _rotated(values, shape, network, shape.length)
    save_file({TENSOR: values.float().cpu().contiguous()}, folder / TENSORS_FILE, {"format": "pt"})
    fields = {
        "peft_type": "PREFIX_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "num_virtual_tokens": shape.length,
        "num_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "token_dim": shape.heads * shape.head_size,
        "encoder_hidden_size": shape.heads * shape.head_size,
        "num_transformer_submodules": 1,
        "prefix_projection": False,
    }
    write_json(folder / CONFIG_FILE, fields)


def _rotated(values: Tensor, shape: PrefixShape, network: Network, offset: int) -> Tensor:
    """(P, width) with the keys of every layer rotated by `offset` positions."""
    layered = values.float().view(shape.length, shape.layers, 2, shape.heads, shape.head_size)
    keys = [network.shift_keys(layered[:, layer, 0], offset) for layer in range(shape.layers)]
    return torch.stack((torch.stack(keys, 1), layered[:, :, 1]), 2).reshape(shape.length, shape.width)
