"""The only module that imports peft: a linear with a LoRA, its initializations, and peft's configuration.

Legend: K inputs, N outputs, R rank.
"""

import warnings
from collections.abc import Sequence

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear
from peft.tuners.lora.dora import DoraLinearLayer
from torch import Tensor, nn

from imprint.quant.linear import QuantizedLinear
from imprint.tune.lora.section import SUBTRACTED
from imprint.tune.lora.shape import AnyLinear, LoraShape

ADAPTER = "default"
"""peft's name for the only adapter of a network."""
Init = bool | str
"""peft's `init_lora_weights`: True is the standard initialization."""


class LoraLinear(Linear):
    """A frozen linear, plain or quantized, plus scale * B A with A and B in fp32; unlike peft's, computed in the linear's dtype.

    peft casts the input to fp32, which at 16 bits doubles the saved activations and does not use tensor cores.
    """

    initial_part: tuple[Tensor, Tensor] | None = None
    """A and B of an initialization that is taken from the weight: their product is subtracted."""

    @property
    def linear(self) -> AnyLinear:
        """The wrapped linear."""
        base = self.base_layer
        assert isinstance(base, AnyLinear)
        return base

    @property
    def matrix_a(self) -> nn.Parameter:
        """A, (R, K)."""
        return self.lora_A[ADAPTER].get_parameter("weight")

    @property
    def matrix_b(self) -> nn.Parameter:
        """B, (N, R)."""
        return self.lora_B[ADAPTER].get_parameter("weight")

    @property
    def magnitude(self) -> nn.Parameter | None:
        """DoRA's norms of the weight's rows, (N,); None without DoRA."""
        return self.lora_magnitude_vector[ADAPTER].get_parameter("weight") if ADAPTER in self.lora_magnitude_vector else None

    @property
    def scale(self) -> float:
        """Factor of the product B A."""
        return float(self.scaling[ADAPTER])

    def set_dropout(self, rate: float) -> None:
        """Set the dropout rate of A's input in training."""
        self.lora_dropout[ADAPTER] = nn.Dropout(rate) if rate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        if self.magnitude is not None:
            dora: Tensor = super().forward(x)
            return dora
        out = self.linear(x)
        flat = x.flatten(0, -2)
        inner, matrix_b = self.lora_dropout[ADAPTER](flat) @ self.matrix_a.to(x.dtype).t(), self.matrix_b.to(x.dtype)
        if self.initial_part is not None:  # one product, so that both parts cancel exactly at the start, at every precision
            initial_a, initial_b = (matrix.to(x.dtype) for matrix in self.initial_part)
            inner, matrix_b = torch.cat((inner, flat @ initial_a.t()), -1), torch.cat((matrix_b, -initial_b), -1)
        total: Tensor = torch.addmm(out.flatten(0, -2), inner, matrix_b.t(), alpha=self.scale).view(*x.shape[:-1], -1)
        return total

    def saved_matrices(self) -> tuple[Tensor, Tensor]:
        """A and B for the unchanged weight, detached; a subtracted initial part is in further rows of A and columns of B."""
        matrix_a, matrix_b = self.matrix_a.detach(), self.matrix_b.detach()
        if self.initial_part is None:
            return matrix_a, matrix_b
        initial_a, initial_b = self.initial_part
        return torch.cat((matrix_a, initial_a)), torch.cat((matrix_b, -initial_b), 1)

    def merged_weight(self, weight: Tensor) -> Tensor:
        """A weight (N, K) of any dtype with the LoRA added, in fp32."""
        product = self.matrix_b.detach() @ self.matrix_a.detach()
        if self.initial_part is not None:
            initial_a, initial_b = self.initial_part
            product -= initial_b @ initial_a
        total: Tensor = weight.float() + product * self.scale
        if self.magnitude is not None:
            total *= (self.magnitude.detach() / torch.linalg.norm(total, dim=1))[:, None]
        return total


def peft_config(shape: LoraShape, *, init: Init = True, targets: Sequence[str] = ()) -> LoraConfig:
    """Peft's configuration of the shape; `targets`, if not empty, replace the shape's."""
    alpha = int(shape.alpha) if shape.alpha == int(shape.alpha) else shape.alpha  # as in peft's own files
    return LoraConfig(
        r=shape.rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft's own conversion of rsLoRA writes a float too
        target_modules=list(targets or shape.targets),
        use_rslora=shape.rslora,
        use_dora=shape.dora,
        init_lora_weights=init,  # type: ignore[arg-type]  # such as "pissa_niter_4"
        rank_pattern=dict(shape.ranks),
        alpha_pattern=dict(shape.alphas),
    )


def attach(network: nn.Module, shape: LoraShape, init: Init) -> dict[str, LoraLinear]:
    """Replace each of the shape's linears in the network by one with a LoRA in fp32; returns these by the linears' names.

    An initialization that is taken from the weight does not change it: the initial product is subtracted in each forward pass. So the base
    stays unchanged, and nothing is rounded to 16 bits.
    """
    method = str(init).partition("_")[0]
    separate = method in (*SUBTRACTED, "orthogonal")
    config = peft_config(shape, init=True if separate else init)
    config._register_custom_module({nn.Linear: LoraLinear, QuantizedLinear: LoraLinear})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes that peft does not know
        inject_adapter_in_model(config, network, ADAPTER)
    del network.peft_config  # else peft warns about the next LoRA on this network
    layers = {name: module for name, module in network.named_modules() if isinstance(module, LoraLinear)}
    for layer in layers.values():
        for module in (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector):
            module.float()
        if separate:
            _initialize(layer, peft_config(shape, init=init, targets=["0"]), subtracted=method in SUBTRACTED)
        if layer.magnitude is not None:  # again, this time without rounding to 16 bits
            magnitude = layer.lora_magnitude_vector[ADAPTER]
            assert isinstance(magnitude, DoraLinearLayer)
            magnitude.update_layer(base_layer=layer.linear, lora_A=layer.matrix_a, lora_B=layer.matrix_b, scaling=layer.scale)
    return layers


def _initialize(layer: LoraLinear, config: LoraConfig, *, subtracted: bool) -> None:
    """Initialize with peft on an fp32 linear: a copy of the weight if the initialization is taken from it, else an empty one."""
    linear = layer.linear
    copy = nn.Linear(linear.in_features, linear.out_features, bias=False, device="meta")
    copy.weight = nn.Parameter(linear.weight.detach().float().clone() if subtracted else torch.empty(0), requires_grad=False)
    config.rank_pattern, config.alpha_pattern = {"0": layer.r[ADAPTER]}, {"0": layer.lora_alpha[ADAPTER]}
    initialized = inject_adapter_in_model(config, nn.Sequential(copy), ADAPTER).get_submodule("0")
    assert isinstance(initialized, Linear)
    matrix_a, matrix_b = (module[ADAPTER].get_parameter("weight").detach() for module in (initialized.lora_A, initialized.lora_B))
    if subtracted:
        layer.initial_part = (matrix_a, matrix_b)
    with torch.no_grad():
        layer.matrix_a.copy_(matrix_a)
        layer.matrix_b.copy_(matrix_b)
