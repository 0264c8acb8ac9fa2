"""Several LoRAs on the linears of one network, of which each token uses one or none; the network's modules and names stay as they are.

The matrices of all LoRAs on a linear are stacked, and the products of those that a token does not use are replaced by zero: two products
for all tokens and LoRAs, whatever their mixture. Legend: T tokens, K inputs, N outputs, R ranks of all LoRAs on a linear, M its LoRAs with
DoRA.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from imprint.models.attention import NO_ADAPTER
from imprint.models.network import Network
from imprint.models.token_loras import TokenLoras
from imprint.tune.lora.shape import AnyLinear

if TYPE_CHECKING:
    from imprint.tune.lora.layer import LoraLinear


class MountedLoras:
    """The LoRAs of a network by adapter id; `Network.token_loras` says which one a token uses."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._layers: dict[int, Mapping[str, LoraLinear]] = {}
        self._handles: list[RemovableHandle] = []

    def __len__(self) -> int:
        """Number of LoRAs."""
        return len(self._layers)

    def add(self, adapter_id: int, layers: Mapping[str, "LoraLinear"]) -> None:
        """Add a LoRA, given as its linears by name."""
        self._layers[adapter_id] = layers
        self._hook_linears()

    def remove(self, adapter_id: int) -> None:
        """Remove a LoRA."""
        del self._layers[adapter_id]
        self._hook_linears()

    @torch.no_grad()
    def _hook_linears(self) -> None:
        for handle in self._handles:
            handle.remove()
        names = {name for layers in self._layers.values() for name in layers}
        modules = dict(self.network.named_modules())
        self._handles = []
        for name in sorted(names):
            linear = modules[name]
            assert isinstance(linear, AnyLinear)
            loras = {adapter_id: layers[name] for adapter_id, layers in self._layers.items() if name in layers}
            self._handles.append(linear.register_forward_hook(StackedLoras(linear, loras, self.network.token_loras)))
        self.network.changed()


class StackedLoras:
    """The LoRAs of one linear, as a hook that adds their products to its output."""

    def __init__(self, linear: AnyLinear, loras: Mapping[int, "LoraLinear"], tokens: TokenLoras) -> None:
        self.tokens = tokens
        self.bias = linear.bias
        rows, columns, owners, scales, factors = [], [], [], [], {}
        for adapter_id, lora in loras.items():
            matrix_a, matrix_b = lora.saved_matrices()
            rows.append(matrix_a)
            columns.append(matrix_b)
            owners += [adapter_id] * len(matrix_a)
            scales += [lora.scale] * len(matrix_a)
            if lora.magnitude is not None:
                factors[adapter_id] = lora.magnitude / torch.linalg.norm(linear.weight.float() + lora.scale * (matrix_b @ matrix_a), dim=1)
        device = rows[0].device
        self.matrix_a, self.matrix_b = torch.cat(rows), torch.cat(columns, 1)
        self.owners = torch.tensor(owners, device=device)
        """(R,) id of the LoRA that a rank belongs to."""
        self.scales = torch.tensor(scales, device=device)
        """(R,)."""
        self.dora_owners = torch.tensor(list(factors), device=device, dtype=torch.long)
        """(M,) the LoRAs with DoRA."""
        self.dora_factors = torch.stack([*factors.values()]) - 1 if factors else None
        """(M, N) what DoRA multiplies the output by, less 1; None without DoRA."""

    def __call__(self, _module: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        """The output (..., N) of the linear for its input (..., K), with the LoRA of each token added; None leaves it as it is."""
        current = self.tokens.current
        if isinstance(current, int) and current == NO_ADAPTER:
            return None
        x, flat = inputs[0].flatten(0, -2), out.flatten(0, -2)
        matrix_a, matrix_b = self._in_dtype(x.dtype)
        ranks = (x @ matrix_a.t()) * self.scales.to(x.dtype)
        ranks = ranks.masked_fill(self.owners != current, 0.0)  # not a product: 0 times the infinity of another's LoRA is NaN
        flat = torch.addmm(flat, ranks, matrix_b.t())
        if self.dora_factors is not None:
            uses = (self.dora_owners == current).to(x.dtype).expand(len(x), -1)  # (T, M)
            unbiased = flat if self.bias is None else flat - self.bias
            flat = flat + unbiased * (uses @ self.dora_factors.to(x.dtype).nan_to_num())
        return flat.view(out.shape)

    def _in_dtype(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if self.matrix_a.dtype != dtype:
            self.matrix_a, self.matrix_b = self.matrix_a.to(dtype), self.matrix_b.to(dtype)
        return self.matrix_a, self.matrix_b
