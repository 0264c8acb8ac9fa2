"""A LoRA on a network: taken off and put back, saved and loaded under peft's names, and made one with the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from imprint.errors import UserError
from imprint.messages import Bilingual
from imprint.models.network import Network
from imprint.quant.linear import QuantizedEmbedding, QuantizedLinear
from imprint.tune.lora.shape import LoraShape

if TYPE_CHECKING:  # peft takes seconds to import, and only who uses a LoRA shall wait for it
    from imprint.tune.lora.layer import Init, LoraLinear

OUTER = "base_model.model."
"""What peft puts before the names of the linears."""
DOWN, UP, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
"""What peft calls a linear's parts in its files."""


class Lora:
    """What learns on some linears of one network. It wraps them where they stand; taken off, the network is its base again, bit for bit."""

    def __init__(self, network: Network, shape: LoraShape, *, init: "Init" = True) -> None:
        from imprint.tune.lora.layer import put_on

        self.network = network
        self.shape = shape
        self.layers: dict[str, LoraLinear] = put_on(network, shape, init)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside this block the network is the base, with the base's modules and names."""
        was_on = {name: layer for name, layer in self.layers.items() if self.network.get_submodule(name) is layer}
        for name, layer in was_on.items():
            self.network.set_submodule(name, layer.linear)
        try:
            yield
        finally:
            for name, layer in was_on.items():
                self.network.set_submodule(name, layer)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Inside this block the network has the LoRA, also within one of `off`."""
        was_off = {name: layer for name, layer in self.layers.items() if self.network.get_submodule(name) is not layer}
        for name, layer in was_off.items():
            self.network.set_submodule(name, layer)
        try:
            yield
        finally:
            for name, layer in was_off.items():
                self.network.set_submodule(name, layer.linear)

    def named_tensors(self) -> dict[str, nn.Parameter]:
        """Every matrix under peft's full names."""
        found: dict[str, nn.Parameter] = {}
        for name, layer in self.layers.items():
            found |= {f"{OUTER}{name}.{DOWN}": layer.down, f"{OUTER}{name}.{UP}": layer.up}
            if layer.magnitude is not None:
                found[f"{OUTER}{name}.{MAGNITUDE}"] = layer.magnitude
        return found

    def trained(self) -> dict[str, nn.Parameter]:
        """Those that learn."""
        return {name: parameter for name, parameter in self.named_tensors().items() if parameter.requires_grad}

    def result(self) -> tuple[LoraShape, dict[str, Tensor]]:
        """What is saved: shape and matrices of a LoRA for the base as it is.

        A start that was taken off again is written out as further rows and columns, with the opposite sign, as peft's own conversion does.
        """
        tensors: dict[str, Tensor] = {name: tensor.detach() for name, tensor in self.named_tensors().items()}
        for name, layer in self.layers.items():
            if layer.begun is not None:
                tensors[f"{OUTER}{name}.{DOWN}"] = torch.cat((layer.down.detach(), layer.begun[0]))
                tensors[f"{OUTER}{name}.{UP}"] = torch.cat((layer.up.detach(), -layer.begun[1]), 1)
        doubled = any(layer.begun is not None for layer in self.layers.values())
        return self.shape.doubled() if doubled else self.shape, tensors

    def train(self, *, mode: bool) -> None:
        """Let dropout act, or not."""
        for layer in self.layers.values():
            layer.train(mode)

    def drop(self, share: float) -> None:
        """Hide this share of each linear's input from its LoRA while training."""
        for layer in self.layers.values():
            layer.drop(share)

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Take these matrices, which must have the names and shapes of ours."""
        with torch.no_grad():
            for name, parameter in self.named_tensors().items():
                parameter.copy_(tensors[name])

    @torch.no_grad()
    def merge(self, *, dequantize: bool = False) -> None:
        """Make what was learned a part of the weights, for good: the network is a plain one of the same type afterwards.

        A weight held as integers cannot take it up: with `dequantize` all of them become numbers of the network's type first; otherwise
        that is a UserError.
        """
        quantized = {name: module for name, module in self.network.named_modules() if isinstance(module, QuantizedLinear)}
        if quantized and not dequantize:
            bits = self.network.quantization_bit
            raise UserError(
                Bilingual(
                    f"merge: the base holds its weights in {bits} bits, which cannot take up a LoRA exactly. Merge it into the base "
                    "that is "
                    "not quantised, or ask for 16-bit weights.",
                    "量化底座无法精确合并；请用未量化的底座，或要求输出 16 位权重。",
                )
            )
        dtype = self.network.dtype
        for name, layer in self.layers.items():
            base = layer.linear
            weight = base.dequantize(dtype) if isinstance(base, QuantizedLinear) else base.weight
            self.network.set_submodule(name, _plain(layer.merged_weight(weight).to(dtype), base.bias))
        for name in quantized.keys() - {f"{name}.base_layer" for name in self.layers}:
            self.network.set_submodule(name, _plain(quantized[name].dequantize(dtype), quantized[name].bias))
        embeddings = [(name, module) for name, module in self.network.named_modules() if isinstance(module, QuantizedEmbedding)]
        for name, embedding in embeddings if quantized else ():
            self.network.set_submodule(name, nn.Embedding.from_pretrained(embedding.dequantize(dtype)))
        if quantized:
            self.network.quantization_bit = None


def _plain(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A frozen linear of this weight (N, K) and bias (N,)."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear.eval()
