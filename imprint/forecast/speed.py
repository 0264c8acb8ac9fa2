"""Seconds that the kernels of a dry run take on a card: each as long as its arithmetic or its memory traffic needs, or as its launch.

The shares of a card's published rates were measured on an H200 (docs/performance.md): 690 to 790 of 989 TFLOP/s in products of 1,536 rows,
and about half of the bandwidth over all other kernels of a step, many of which are small.
"""

from collections import Counter
from typing import Final

from imprint.forecast.cards import Card
from imprint.forecast.trace import Kernel

PRODUCT_SHARE: Final = 0.75
"""Share of a card's published rate that large matrix products reach."""
BANDWIDTH_SHARE: Final = 0.55
"""Share of a card's bandwidth that kernels reach."""
KERNEL_SECONDS: Final = 3e-6
"""The shortest time that a kernel takes on a GPU."""
LAUNCH_SECONDS: Final = 27e-6
"""What a kernel costs the CPU with PyTorch's eager mode and autograd; hosts differ by a factor of 1.7."""


UPDATE_BYTES: Final = 28
"""Memory traffic of AdamW for an element with its fp32 gradient: gradient, value and moments read, the last three written."""
COPY_UPDATE_BYTES: Final = 40
"""The same where 16-bit weights and gradients are converted."""
SPLIT_UPDATE_BYTES: Final = 26
"""The same where half of each fp32 value is the 16-bit weight, and all is one kernel."""
UPDATE_SHARE: Final = 0.75
"""Share of a card's bandwidth that the update reaches, in few large kernels."""


def kernel_seconds(kernels: Counter[Kernel], card: Card, length_share: float = 1.0, *, graphs: bool = False) -> float:
    """Seconds for which the GPU is busy, or those for which the CPU launches kernels, where they are more.

    `length_share`: how long the rows are, compared with those of the dry run; the weights that products read do not depend on it.
    `graphs`: kernels are repeated as a CUDA graph, which costs the CPU nothing.
    """
    products, bandwidth = card.tflops * 1e12 * PRODUCT_SHARE, card.gb_per_second * 1e9 * BANDWIDTH_SHARE

    def seconds(operations: int, moved: int) -> float:
        memory = moved / bandwidth
        return max(length_share * operations / products, memory) if operations else length_share * memory

    busy = sum(count * max(seconds(operations, moved), KERNEL_SECONDS) for (operations, moved), count in kernels.items())
    return busy if graphs else max(busy, kernels.total() * LAUNCH_SECONDS)


def update_seconds(trained: int, trained_bytes: int, card: Card, *, split: bool = False) -> float:
    """Seconds of the optimizer's update; `split`: that of 16-bit weights is one kernel."""
    of_16_bits = SPLIT_UPDATE_BYTES if split else COPY_UPDATE_BYTES
    per_element = UPDATE_BYTES if trained_bytes == 4 * trained else of_16_bits
    return trained * per_element / (card.gb_per_second * 1e9 * UPDATE_SHARE)
