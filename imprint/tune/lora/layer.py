"""The one door to peft: a linear with a LoRA on it, its starts, and the configuration that peft reads.

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
from imprint.tune.lora.section import COMPUTED
from imprint.tune.lora.shape import AnyLinear, LoraShape

NAME = "default"
"""What peft calls the only adapter of a network."""
Init = bool | str
"""peft's word for a start: True is the standard one."""


class LoraLinear(Linear):
    """A frozen linear, plain or quantised, and beside it scale * B A in fp32; as peft's own, but computed in the linear's own type.

    peft takes the input to fp32, which at 16 bits doubles what is kept for the gradient and leaves the fast matrix units idle.
    """

    begun: tuple[Tensor, Tensor] | None = None
    """A and B of a start that is a part of the weight itself: their product is taken off again."""

    @property
    def linear(self) -> AnyLinear:
        """What it stands on."""
        base = self.base_layer
        assert isinstance(base, AnyLinear)
        return base

    @property
    def down(self) -> nn.Parameter:
        """A, (R, K)."""
        return self.lora_A[NAME].get_parameter("weight")

    @property
    def up(self) -> nn.Parameter:
        """B, (N, R)."""
        return self.lora_B[NAME].get_parameter("weight")

    @property
    def magnitude(self) -> nn.Parameter | None:
        """DoRA's row lengths (N,)."""
        return self.lora_magnitude_vector[NAME].get_parameter("weight") if NAME in self.lora_magnitude_vector else None

    @property
    def scale(self) -> float:
        """What the product B A is multiplied by."""
        return float(self.scaling[NAME])

    def drop(self, share: float) -> None:
        """Hide this share of the input from A and B while training."""
        self.lora_dropout[NAME] = nn.Dropout(share) if share else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        if self.magnitude is not None:
            dora: Tensor = super().forward(x)
            return dora
        out = self.linear(x)
        flat = x.flatten(0, -2)
        inner, up = self.lora_dropout[NAME](flat) @ self.down.to(x.dtype).t(), self.up.to(x.dtype)
        if self.begun is not None:  # in one product, so that at the start one part takes away the other however coarse the type
            down, taken_off = (part.to(x.dtype) for part in self.begun)
            inner, up = torch.cat((inner, flat @ down.t()), -1), torch.cat((up, -taken_off), -1)
        total: Tensor = torch.addmm(out.flatten(0, -2), inner, up.t(), alpha=self.scale).view(*x.shape[:-1], -1)
        return total

    def merged_weight(self, weight: Tensor) -> Tensor:
        """A weight (N, K) of any type with what was learned in it, in fp32."""
        product = self.up.detach() @ self.down.detach()
        if self.begun is not None:
            product -= self.begun[1] @ self.begun[0]
        total: Tensor = weight.float() + product * self.scale
        if self.magnitude is not None:
            total *= (self.magnitude.detach() / torch.linalg.norm(total, dim=1))[:, None]
        return total


def peft_config(shape: LoraShape, *, init: Init = True, targets: Sequence[str] = ()) -> LoraConfig:
    """The shape in peft's words, for these linears instead of its own where there are any."""
    whole = int(shape.alpha) if shape.alpha == int(shape.alpha) else shape.alpha  # peft's own files have whole numbers
    return LoraConfig(
        r=shape.rank,
        lora_alpha=whole,  # type: ignore[arg-type]  # as peft's own conversion of rsLoRA writes it
        target_modules=list(targets or shape.targets),
        use_rslora=shape.rslora,
        use_dora=shape.dora,
        init_lora_weights=init,  # type: ignore[arg-type]  # with its number of iterations
        rank_pattern=dict(shape.ranks),
        alpha_pattern=dict(shape.alphas),
    )


def put_on(network: nn.Module, shape: LoraShape, init: Init) -> dict[str, LoraLinear]:
    """Put a LoRA in fp32 on each of the shape's linears, inside the network; returns them by the linears' names.

    A start that takes a part out of the weight leaves the weight as it is: the part is taken off again at each call, so that the base
    stays the base, and nothing is lost where it is held at 16 bits.
    """
    start = str(init).partition("_")[0]
    apart = start in (*COMPUTED, "orthogonal")
    config = peft_config(shape, init=True if apart else init)
    config._register_custom_module({nn.Linear: LoraLinear, QuantizedLinear: LoraLinear})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes that peft has never heard of
        inject_adapter_in_model(config, network, NAME)
    del network.peft_config  # peft's note to itself; the next LoRA on this network would be warned of it
    layers = {name: module for name, module in network.named_modules() if isinstance(module, LoraLinear)}
    for layer in layers.values():
        for part in (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector):
            part.float()
        if apart:
            _begin(layer, peft_config(shape, init=init, targets=["0"]), taken_off=start in COMPUTED)
        if layer.magnitude is not None:  # once more, now that the lengths are not rounded to 16 bits
            lengths = layer.lora_magnitude_vector[NAME]
            assert isinstance(lengths, DoraLinearLayer)
            lengths.update_layer(base_layer=layer.linear, lora_A=layer.down, lora_B=layer.up, scaling=layer.scale)
    return layers


def _begin(layer: LoraLinear, config: LoraConfig, *, taken_off: bool) -> None:
    """Start as peft does on a linear in fp32: on a copy of the weight where it is `taken_off` it, or else on one without numbers."""
    linear = layer.linear
    copy = nn.Linear(linear.in_features, linear.out_features, bias=False, device="meta")
    copy.weight = nn.Parameter(linear.weight.detach().float().clone() if taken_off else torch.empty(0), requires_grad=False)
    config.rank_pattern, config.alpha_pattern = {"0": layer.r[NAME]}, {"0": layer.lora_alpha[NAME]}
    taken = inject_adapter_in_model(config, nn.Sequential(copy), NAME).get_submodule("0")
    assert isinstance(taken, Linear)
    down, up = (part[NAME].get_parameter("weight").detach() for part in (taken.lora_A, taken.lora_B))
    if taken_off:
        layer.begun = (down, up)
    with torch.no_grad():
        layer.down.copy_(down)
        layer.up.copy_(up)
