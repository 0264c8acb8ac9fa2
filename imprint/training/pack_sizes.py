"""The sizes up to which packs are filled, so that few CUDA graphs serve all of them.

A GPU multiplies matrices in tiles, and a few tokens more or less can change the time by a fifth: that is measured, and packs are filled
up to the sizes at which the products of the network are fastest. Legend: T tokens of a pack, N rows and K columns of a weight.
"""

from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Final

import torch

from imprint.models.network import Network
from imprint.quant.fp8 import TRANSPOSED
from imprint.quant.linear import QuantizedLinear
from imprint.quant.scaled_matmul import empty_products
from imprint.runtime import free_cached_memory
from imprint.tune.lora.shape import linears_of

SMALLEST_STEP: Final = 128
"""Least distance of two sizes in tokens; above 1,024 tokens it is an eighth of the size."""
TRIED_SIZES: Final = 5
"""Sizes within a step that are measured."""
SMALLEST_WEIGHT: Final = 2**20
"""Elements of a weight whose products count."""
REPEATS: Final = 3
EQUAL_SHARE: Final = 1.005
"""Times up to this factor apart are equal."""
Compute = Callable[[], None]


def rounded_up(count: int) -> int:
    """The next size for this many tokens or targets: at most an eighth more, where it is not small."""
    step = _step(count)
    return -(-count // step) * step


def _step(count: int) -> int:
    return max(SMALLEST_STEP, 1 << max(0, (count - 1).bit_length() - 4))


class FastestSizes:
    """The size from T on, at most a step away, at which something takes least, and the largest of those, so that they are few.

    `seconds` says how long it takes at a size.
    """

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self._seconds = cache(seconds)

    def __call__(self, count: int) -> int:
        """The size for this many tokens."""
        part = _step(count) // (TRIED_SIZES - 1)
        first = -(-count // part)
        times = {part * (first + index): self._seconds(part * (first + index)) for index in range(TRIED_SIZES)}
        return max(size for size, seconds in times.items() if seconds <= EQUAL_SHARE * min(times.values()))


def product_seconds(network: Network, tokens: int) -> float:
    """Seconds that a GPU takes for the products of a network with so many tokens, and for those of the gradients of its inputs."""
    linears = linears_of(network).values()
    shapes = Counter(
        (one.out_features, one.in_features, isinstance(one, QuantizedLinear) and TRANSPOSED in one.of_gradients)
        for one in linears
        if one.out_features * one.in_features >= SMALLEST_WEIGHT
    )
    seconds = 0.0
    for (rows, columns, fp8), count in shapes.items():
        products = empty_products if fp8 else _products
        seconds += count * _seconds(products(rows, columns, tokens, network.dtype, network.device))
    free_cached_memory(network.device)
    return seconds


def _products(rows: int, columns: int, tokens: int, dtype: torch.dtype, device: torch.device) -> Compute:
    """X (T, K) times the transposed weight (N, K), and a gradient (T, N) times the weight."""
    weight = torch.zeros((rows, columns), dtype=dtype, device=device)
    x, grad = (torch.zeros((tokens, size), dtype=dtype, device=device) for size in (columns, rows))

    def compute() -> None:
        x @ weight.t()
        grad @ weight

    return compute


def _seconds(compute: Compute) -> float:
    """Seconds that a GPU takes to compute something."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for repeat in range(REPEATS + 1):
        if repeat == 1:  # the first one chooses the kernels
            start.record()
        compute()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / REPEATS
