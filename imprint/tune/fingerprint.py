"""A fingerprint of a base's weights, equal at every precision: an adapter is loaded on the base it was trained on only."""

from collections.abc import Sequence

import torch

from imprint.models.checkpoint import quantized_layers
from imprint.models.network import Network

PRECISION_LOSS = 0.01
"""Relative difference that rounding may cause; bfloat16 causes 0.004."""


def fingerprint(network: Network) -> list[float]:
    """One number for each weight: the largest magnitude in its first row, which every precision keeps; a hash would change with it.

    A quantised weight is dequantised: its largest integer times its scale is the largest number that it was made from.
    """
    first_rows = {name: parameter[:1] for name, parameter in network.named_parameters() if parameter.dim() > 1}
    first_rows |= {name: layer.dequantize(torch.float32, slice(1)) for name, layer in quantized_layers(network).items()}
    vectors = {name: parameter for name, parameter in network.named_parameters() if parameter.dim() == 1}
    largest = [tensor.abs().max().float() for _, tensor in (*sorted(first_rows.items()), *sorted(vectors.items()))]
    return [round(float(value), 6) for value in torch.stack(largest).cpu()]


def same_base(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two fingerprints are of the same base, at whatever precision."""
    return len(one) == len(other) and all(
        abs(a - b) <= PRECISION_LOSS * max(abs(a), abs(b)) + 1e-5 for a, b in zip(one, other, strict=True)
    )
