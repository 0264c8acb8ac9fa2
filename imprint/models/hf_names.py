"""How the files of a transformers model name and lay out its weights, where that differs from the classes of this version."""

from typing import Any

import torch
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.pytorch_utils import Conv1D

BUFFER_ENDINGS = (".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".attn.causal_mask")
"""Names of causal masks that files of GPT-2 and GPT-NeoX hold beside the weights."""


class StoredNames:
    """The names in the files of one model, and in its classes."""

    def __init__(self, model: Any) -> None:
        self._base_name: str = model.base_model_prefix
        self._renamings = [rule for rule in get_model_conversion_mapping(model) if isinstance(rule, WeightRenaming)]
        self._reversed = [
            rule.reverse_transform()
            for rule in reversed(get_model_conversion_mapping(model, add_legacy=False))
            if isinstance(rule, WeightRenaming)
        ]

    def network_name(self, stored: str, names: frozenset[str]) -> str:
        """The network's name, that of the classes, for a stored one; `names` are all that the network has."""
        renamed = stored
        for rule in self._renamings:
            renamed, _ = rule.rename_source_key(renamed)
        candidates = (stored, f"{self._base_name}.{stored}", renamed, f"{self._base_name}.{renamed}")
        return next((name for name in candidates if name in names), renamed)

    def stored_name(self, name: str, names: frozenset[str]) -> str:
        """The name under which a tensor of the network is stored, so that other programs find it."""
        stored = name
        for rule in self._reversed:
            stored, _ = rule.rename_source_key(stored)
        return stored if self.network_name(stored, names) == name else name


def replace_conv1d(model: Any) -> frozenset[str]:
    """Put linears in place of transformers' Conv1D, whose files hold each weight as (inputs, outputs); returns the weights' names."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Conv1D)}
    for name, layer in layers.items():
        linear = nn.Linear(layer.nx, layer.nf, device="meta")
        if not layer.weight.is_meta:
            linear = linear.to_empty(device=layer.weight.device)
        model.set_submodule(name, linear.to(torch.float32))
    return frozenset(f"{name}.weight" for name in layers)


def is_mask(name: str, names: frozenset[str]) -> bool:
    """Whether a stored tensor is a causal mask, which is computed here."""
    return name.endswith(BUFFER_ENDINGS) and name not in names
