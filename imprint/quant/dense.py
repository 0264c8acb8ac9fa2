"""Products with a weight that is not quantized: one token by a kernel that reads the weight at the speed of the memory, more by PyTorch.

Legend: N rows (output features), K columns (input features).
"""

from torch import Tensor, is_grad_enabled, nn
from torch.nn import functional

from imprint.kernels import available, ops
from imprint.quant.kernels import KERNELS, PLAIN_KERNELS
from imprint.quant.linear import QuantizedWeight
from imprint.quant.names import KernelChoice


class DecodingLinear(nn.Linear):
    """An nn.Linear that a kernel computes where one token is decoded; the same parameters, and in training the same product."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as nn.Linear names it
        """(..., K) -> (..., N)."""
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As functional.linear: x (..., K) times a weight (N, K), plus the bias (N,) -> (..., N)."""
    if _on_gpu(x) and _is_decoded(x, weight, bias) and available.usable(x.device.index, x.dtype):
        product: Tensor = ops.dense_linear(x, weight, bias)
        return product
    return functional.linear(x, weight, bias)


def _on_gpu(x: Tensor) -> bool:
    return x.is_cuda


def _is_decoded(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether x is one token, and the product needs no gradient and has plain tensors of one dtype."""
    if x.numel() != x.shape[-1] or type(weight) not in {Tensor, nn.Parameter} or not weight.is_contiguous():
        return False
    if is_grad_enabled() and (x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)):
        return False
    return x.dtype == weight.dtype and (bias is None or bias.dtype == x.dtype) and x.device == weight.device


def choose_kernels(network: nn.Module, choice: KernelChoice) -> None:
    """Let the linears of a network, quantized and plain, be computed by kernels where these are faster ("auto"), or by PyTorch alone."""
    plain = choice == "plain"
    for module in network.modules():
        if isinstance(module, QuantizedWeight):
            module.kernels = PLAIN_KERNELS if plain else KERNELS
        elif type(module) in {nn.Linear, DecodingLinear}:  # the class alone is exchanged: names, parameters and hooks stay
            module.__class__ = nn.Linear if plain else DecodingLinear
