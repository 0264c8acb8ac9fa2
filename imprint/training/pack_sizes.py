"""The sizes up to which packs are filled, so that few CUDA graphs serve all of them.

A GPU multiplies matrices in tiles, and a few tokens more or less can change the time by a fifth: that is measured, and packs are filled
up to the sizes at which the products of the network are fastest. They are measured as a run computes them, one after the other and with
numbers that are not 0: under that load a GPU lowers its clock, and other sizes are the fastest. Legend: T tokens of a pack, N rows and K
columns of a weight.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final

import torch

from imprint.models.network import Network
from imprint.quant.fp8 import TRANSPOSED
from imprint.quant.linear import QuantizedLinear
from imprint.quant.scaled_matmul import random_products
from imprint.runtime import free_cached_memory
from imprint.tune.lora.shape import linears_of

SMALLEST_STEP: Final = 128
"""Least distance of two sizes in tokens; above 1,024 tokens it is an eighth of the size."""
TRIED_SIZES: Final = 9
"""Sizes within a step that are measured."""
SMALLEST_WEIGHT: Final = 2**20
"""Elements of a weight whose products count."""
MOST_ALIKE: Final = 6
"""Linears of one shape that are computed in a repetition, however many there are."""
WARM_UP_REPETITIONS: Final = 2
"""Repetitions after which a GPU's clock has come down."""
REPETITIONS: Final = 3
"""Repetitions that are timed."""
EQUAL_SHARE: Final = 1.01
"""Times up to this factor apart are equal."""
Compute = Callable[[], None]


def rounded_up(count: int) -> int:
    """The next size for this many tokens or targets: at most an eighth more, where it is not small."""
    step = _step(count)
    return -(-count // step) * step


def _step(count: int) -> int:
    return max(SMALLEST_STEP, 1 << max(0, (count - 1).bit_length() - 4))


class FastestSizes:
    """The size from T on, at most a step away, at which something takes least, and the roundest of those, so that they are few.

    `seconds` says how long it takes at a size.
    """

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self._seconds = cache(seconds)

    def __call__(self, count: int) -> int:
        """The size for this many tokens."""
        part = _step(count) // (TRIED_SIZES - 1)
        first = -(-count // part)
        times = {part * (first + index): self._seconds(part * (first + index)) for index in range(TRIED_SIZES)}
        fastest = [size for size, seconds in times.items() if seconds <= EQUAL_SHARE * min(times.values())]
        return max(fastest, key=lambda size: (size & -size, size))  # by the power of two that divides it


def product_seconds(network: Network, tokens: int) -> float:
    """Seconds that a GPU takes for products of the network's shapes with so many tokens, and for those of the gradients of its inputs."""
    linears = linears_of(network).values()
    shapes = Counter(
        (one.out_features, one.in_features, isinstance(one, QuantizedLinear) and TRANSPOSED in one.backward_tensors)
        for one in linears
        if one.out_features * one.in_features >= SMALLEST_WEIGHT
    )
    products = list[Compute]()
    for (rows, columns, fp8), count in shapes.items():
        make = random_products if fp8 else _random_products
        products += [make(rows, columns, tokens, network.dtype, network.device)] * min(count, MOST_ALIKE)
    seconds = _seconds(products) if products else 0.0
    del products
    free_cached_memory(network.device)
    return seconds


def _random_products(rows: int, columns: int, tokens: int, dtype: torch.dtype, device: torch.device) -> Compute:
    """X (T, K) times the transposed weight (N, K), and a gradient (T, N) times the weight."""
    generator = torch.Generator(device)  # another one than the dropout's
    weight, x, grad = (
        torch.randn(shape, dtype=dtype, device=device, generator=generator)
        for shape in ((rows, columns), (tokens, columns), (tokens, rows))
    )

    def compute() -> None:
        x @ weight.t()
        grad @ weight

    return compute


def _seconds(products: Sequence[Compute]) -> float:
    """Seconds that a GPU takes to compute them in turn, as a graph: launching small ones would take longer than computing them."""
    for compute in products:  # chooses the kernels
        compute()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for compute in products:
            compute()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for repetition in range(WARM_UP_REPETITIONS + REPETITIONS):
        if repetition == WARM_UP_REPETITIONS:
            start.record()
        graph.replay()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / REPETITIONS
