"""A fingerprint of a base's weights, nearly equal at every precision, so that an adapter is loaded only on its own base."""

from collections.abc import Sequence

import torch

from imprint.models.network import Network
from imprint.models.quantized_layers import quantized_layers

PRECISION_LOSS = 0.01
"""Relative difference that rounding may cause; bfloat16 causes 0.004."""


def fingerprint(network: Network) -> list[float]:
    """One number per weight: the largest magnitude in its first row, which hardly depends on precision, as a hash would.

    A quantized weight is dequantized: its largest integer times its scale is the largest magnitude of the original weight.
    """
    first_rows = {name: parameter[:1] for name, parameter in network.named_parameters() if parameter.dim() > 1}
    first_rows |= network.removed_first_rows
    first_rows |= {name: layer.dequantize(torch.float32, slice(1)) for name, layer in quantized_layers(network).items()}
    vectors = {name: parameter for name, parameter in network.named_parameters() if parameter.dim() == 1}
    largest = [tensor.abs().max().float() for _, tensor in (*sorted(first_rows.items()), *sorted(vectors.items()))]
    return [round(float(value), 6) for value in torch.stack(largest).cpu()]


def same_base(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two fingerprints belong to the same base, at any precision."""
    return len(first) == len(second) and all(
        abs(a - b) <= PRECISION_LOSS * max(abs(a), abs(b)) + 1e-5 for a, b in zip(first, second, strict=True)
    )
