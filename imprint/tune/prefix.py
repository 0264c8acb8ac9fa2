"""P-Tuning v2: trained keys and values in front of every row, in every layer (Liu et al. 2021, arXiv 2110.07602).

Legend: P prefix length, K layers, H key/value heads, D head size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from imprint.errors import UserError
from imprint.models.attention import Prefix
from imprint.models.network import Network
from imprint.pack import pack
from imprint.tune.section import NO_TEXT_WITH_PROJECTION

LENGTH = 128
"""Tokens of a new prefix where the recipe does not say; the original's scripts have as many."""
NAME = "transformer.prefix_encoder."
"""What the original puts before the names of the prefix's tensors."""


@dataclass(frozen=True)
class PrefixShape:
    """Everything that decides the sizes of a prefix's tensors."""

    length: int
    """P."""
    layers: int
    """K."""
    heads: int
    """H."""
    head_size: int
    """D."""
    hidden: int
    """Hidden size of the base, the width inside the projection."""
    projection_width: int
    """Width of the table where there is a projection, which it goes into."""
    projection: bool
    """Whether keys and values are computed through two linear layers."""

    @property
    def width(self) -> int:
        """Numbers per prefix token: keys and values of all layers."""
        return self.layers * 2 * self.heads * self.head_size

    @classmethod
    def of(cls, network: Network, length: int, *, projection: bool) -> "PrefixShape":
        """The shape that fits a network."""
        shape = network.shape
        return cls(length, shape.num_layers, shape.num_kv_heads, shape.head_dim, shape.hidden_size, network.projection_width, projection)


class PrefixEncoder(nn.Module):
    """The trained part: fp32 parameters under the original's names, returning one (keys, values) pair a layer."""

    def __init__(self, shape: PrefixShape) -> None:
        super().__init__()
        self.shape = shape
        table = torch.empty(shape.length, shape.projection_width if shape.projection else shape.width)
        self.embedding = nn.Embedding.from_pretrained(table, freeze=False)  # filled by `start_prefix` or from a file
        self.trans = (
            nn.Sequential(nn.Linear(shape.projection_width, shape.hidden), nn.Tanh(), nn.Linear(shape.hidden, shape.width))
            if shape.projection
            else None
        )

    def prefix(self, dtype: torch.dtype, *, dropout: float = 0.0) -> Prefix:
        """Keys and values (P, H, D) of every layer in the base's dtype; `dropout` draws one mask for the whole micro-batch."""
        table = self.embedding.weight if self.trans is None else self.trans(self.embedding.weight)
        table = functional.dropout(table, dropout) if dropout else table
        shape = self.shape
        layered = table.to(dtype).view(shape.length, shape.layers, 2, shape.heads, shape.head_size)
        pairs = (layer.unbind(1) for layer in layered.unbind(1))  # unbind: its gradient is one stack, not a table of zeros for each slice
        return [(keys, values) for keys, values in pairs]

    def named_tensors(self) -> dict[str, nn.Parameter]:
        """The parameters under the original's full names."""
        return {NAME + name: parameter for name, parameter in self.named_parameters()}


def start_prefix(network: Network, shape: PrefixShape, start: str, text_ids: Sequence[int]) -> PrefixEncoder:
    """A new prefix on the network's device.

    `random` draws from N(0, 1) as the original does; `zeros` adds nothing but attention to nothing; `text` takes the keys and values that
    the base computes for `text_ids`, repeated to the prefix's length. Raises UserError for `text` together with the projection.
    """
    if start == "text" and shape.projection:
        raise UserError(f"tune.start: {NO_TEXT_WITH_PROJECTION}.")
    device = network.device
    encoder = PrefixEncoder(shape).to(device)
    with torch.no_grad():
        encoder.embedding.weight.normal_()
        if start == "zeros":
            last = encoder.embedding if encoder.trans is None else encoder.trans[2]
            for parameter in last.parameters():
                parameter.zero_()
        elif start == "text":
            encoder.embedding.weight.copy_(_keys_and_values(network, text_ids, shape))
    return encoder


def _keys_and_values(network: Network, text_ids: Sequence[int], shape: PrefixShape) -> Tensor:
    """(P, width): what the base's attention holds after reading the text, repeated or cut to P tokens."""
    if not text_ids:
        raise UserError('tune.text: is empty. Give the instruction of the task, or set tune.start to "random".')
    repeated = [text_ids[i % len(text_ids)] for i in range(shape.length)]
    cache = network.new_cache(1, shape.length)
    cache.length = shape.length
    network(pack([repeated], network).to(network.device), cache=cache)
    layers = [torch.stack((key[0], value[0]), 0) for key, value in zip(cache.keys, cache.values, strict=True)]  # K x (2, H, P, D)
    return torch.stack(layers).permute(3, 0, 1, 2, 4).reshape(shape.length, -1).float()


def prefix_from_tensors(tensors: Mapping[str, Tensor], network: Network, place: str) -> PrefixEncoder:
    """The prefix that a file's tensors hold; length and projection are read from their shapes.

    `place` names the file in sentences. Raises UserError where there is no prefix or it belongs to a base of another shape.
    """
    found = {name.split("prefix_encoder.")[-1]: tensor for name, tensor in tensors.items() if "prefix_encoder." in name}
    if "embedding.weight" not in found:
        held = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise UserError(f"{place}: holds no prefix ({NAME}embedding.weight); found {held}. Give the prefix file of a P-Tuning v2 run.")
    length = max(1, found["embedding.weight"].shape[:1].numel())
    shape = PrefixShape.of(network, length, projection="trans.0.weight" in found)
    with torch.device("meta"):
        encoder = PrefixEncoder(shape)
    for name, parameter in encoder.named_parameters():
        if name not in found or found[name].shape != parameter.shape or not found[name].is_floating_point():
            size = f"{tuple(found[name].shape)} of {found[name].dtype}" if name in found else "nothing"
            raise UserError(
                f"{place}: {NAME}{name} is {size}, this base needs {tuple(parameter.shape)} "
                f"({shape.layers} layers, hidden size {shape.hidden}). Load the prefix together with the base it was trained on."
            )
    encoder = encoder.to_empty(device=network.device)
    encoder.load_state_dict({name: found[name] for name, _ in encoder.named_parameters()})
    return encoder
