"""A LoRA on a network: attached and detached, saved under peft's names, and merged into the weights."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from imprint.messages import Bilingual, UserError
from imprint.models.attention import NO_ADAPTER, Prefix
from imprint.models.network import Network
from imprint.models.vocabulary import refuse_missing_weights
from imprint.quant.linear import QuantizedEmbedding, QuantizedLinear
from imprint.tune.adapter import LoraMetadata
from imprint.tune.lora.mounted import MountedLoras
from imprint.tune.lora.shape import LoraShape
from imprint.tune.method import AdapterMethod
from imprint.tune.peft_files import TENSORS_FILE

if TYPE_CHECKING:  # peft takes seconds to import; only a LoRA needs it
    from imprint.tune.lora.layer import Init, LoraLinear

PEFT_PREFIX = "base_model.model."
"""Prefix of the tensors' names in peft's files."""
LORA_A, LORA_B, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
"""Names of a linear's tensors in peft's files."""


class Lora:
    """A LoRA as an `Adapter`: its modules replace linears of one network; inside `off` the network is the base, bit for bit."""

    method: ClassVar[AdapterMethod] = "lora"
    mergeable: ClassVar[bool] = True

    def __init__(self, network: Network, shape: LoraShape, *, init: "Init" = True) -> None:
        from imprint.tune.lora.layer import attach

        self.network = network
        self.shape = shape
        self.layers: dict[str, LoraLinear] = attach(network, shape, init)
        self.mounted_as: int | None = None
        """Its id among the mounted LoRAs, where its linears have left the network; None while they replace the network's own."""

    def mount(self, loras: MountedLoras, adapter_id: int) -> None:
        """Take the linears out of the network for good and compute the LoRA beside others, without gradients."""
        self._replace(self.layers, on=False)
        self.mounted_as = adapter_id
        loras.add(adapter_id, self.layers)

    def off(self) -> AbstractContextManager[None]:
        """See Adapter."""
        return self._switched(on=False)

    def on(self) -> AbstractContextManager[None]:
        """See Adapter."""
        return self._switched(on=True)

    @contextmanager
    def _switched(self, *, on: bool) -> Iterator[None]:
        if self.is_mounted():
            with self.network.token_loras.with_default(self._default(on=on)):
                yield
            return
        moved = {name: layer for name, layer in self.layers.items() if (self.network.get_submodule(name) is layer) != on}
        self._replace(moved, on=on)
        try:
            yield
        finally:
            if not self.is_mounted():
                self._replace(moved, on=not on)
            elif moved:  # it was mounted inside the block
                self.network.token_loras.default = self._default(on=not on)

    def is_mounted(self) -> bool:
        """Whether its linears have left the network."""
        return self.mounted_as is not None

    def _default(self, *, on: bool) -> int:
        return NO_ADAPTER if self.mounted_as is None or not on else self.mounted_as

    def _replace(self, layers: Mapping[str, "LoraLinear"], *, on: bool) -> None:
        for name, layer in layers.items():
            self.network.set_submodule(name, layer if on else layer.linear)
        self.network.changed()

    def named_tensors(self) -> dict[str, nn.Parameter]:
        """See Adapter; under peft's full names."""
        tensors: dict[str, nn.Parameter] = {}
        for name, layer in self.layers.items():
            tensors |= {f"{PEFT_PREFIX}{name}.{LORA_A}": layer.matrix_a, f"{PEFT_PREFIX}{name}.{LORA_B}": layer.matrix_b}
            if layer.magnitude is not None:
                tensors[f"{PEFT_PREFIX}{name}.{MAGNITUDE}"] = layer.magnitude
        return tensors

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """See Adapter; some initializations train one of the two matrices only."""
        return {name: parameter for name, parameter in self.named_tensors().items() if parameter.requires_grad}

    def saved_form(self) -> tuple[LoraShape, dict[str, Tensor]]:
        """Shape and tensors as they are saved, for the unchanged base.

        A subtracted initial part is appended as further rows of A and columns of B with the opposite sign, as in peft's own conversion.
        """
        tensors: dict[str, Tensor] = {name: tensor.detach() for name, tensor in self.named_tensors().items()}
        for name, layer in self.layers.items():
            tensors[f"{PEFT_PREFIX}{name}.{LORA_A}"], tensors[f"{PEFT_PREFIX}{name}.{LORA_B}"] = layer.saved_matrices()
        doubled = any(layer.initial_part is not None for layer in self.layers.values())
        return self.shape.doubled() if doubled else self.shape, tensors

    def prefix(self, dtype: torch.dtype, *, training: bool = False) -> Prefix | None:  # noqa: ARG002
        """See Adapter; always None."""
        return None

    def set_dropout(self, rate: float) -> None:
        """See Adapter; applies to the input of each A."""
        for layer in self.layers.values():
            layer.set_dropout(rate)

    def set_training(self, *, training: bool) -> None:
        """See Adapter."""
        for layer in self.layers.values():
            layer.train(training)

    def settings(self) -> dict[str, object]:
        """See Adapter."""
        shape = self.shape
        return {"rank": shape.rank, "alpha": shape.alpha, "rslora": shape.rslora, "dora": shape.dora, "targets": shape.targets}

    def metadata(self, start: str) -> LoraMetadata:
        """See Adapter."""
        with self.off():
            return LoraMetadata(self.saved_form()[0].rank, tuple(self.shape.short_names(self.network)), start)

    def save_files(self, folder: Path, base: str) -> None:
        """See Adapter; peft's two files."""
        from imprint.tune.lora.layer import peft_config

        shape, tensors = self.saved_form()
        config = peft_config(shape)
        with self.off():
            config.target_modules = shape.short_names(self.network)
        config.base_model_name_or_path, config.inference_mode = base, True
        config.save_pretrained(str(folder))
        saved = {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(saved, folder / TENSORS_FILE, {"format": "pt"})

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors with the names and shapes of `named_tensors`."""
        with torch.no_grad():
            for name, parameter in self.named_tensors().items():
                parameter.copy_(tensors[name])

    @torch.no_grad()
    def merge(self, *, dequantize: bool = False) -> None:
        """Add the LoRA to the weights permanently: the network has plain linears of the same dtype afterwards.

        With `dequantize`, all quantized weights are dequantized first. Raises UserError for quantized weights without it.
        """
        refuse_missing_weights(self.network)
        quantized = {name: module for name, module in self.network.named_modules() if isinstance(module, QuantizedLinear)}
        if quantized and not dequantize:
            label = next(iter(quantized.values())).weight_format.label.english
            raise UserError(
                Bilingual(
                    f"merge: the base has its weights in {label}, which cannot represent a merged LoRA exactly. Merge it into the base "
                    "that is not quantized, or request 16-bit weights.",
                    "merge：量化底座无法精确合并；请用未量化的底座，或要求输出 16 位权重。",
                )
            )
        dtype = self.network.dtype
        for name, layer in self.layers.items():
            base = layer.linear
            weight = base.dequantize(dtype) if isinstance(base, QuantizedLinear) else base.weight
            self.network.set_submodule(name, _frozen_linear(layer.merged_weight(weight).to(dtype), base.bias))
        for name in quantized.keys() - {f"{name}.base_layer" for name in self.layers}:
            self.network.set_submodule(name, _frozen_linear(quantized[name].dequantize(dtype), quantized[name].bias))
        embeddings = [(name, module) for name, module in self.network.named_modules() if isinstance(module, QuantizedEmbedding)]
        for name, embedding in embeddings if quantized else ():
            self.network.set_submodule(name, nn.Embedding.from_pretrained(embedding.dequantize(dtype)))
        if quantized:
            self.network.weight_format = None
        self.network.changed()


def _frozen_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A frozen nn.Linear with this weight (N, K) and bias (N,)."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear.eval()
