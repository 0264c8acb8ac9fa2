"""Several batches at a time on a CPU, each in a thread of its own: what one step of a small network computes does not fill many cores.

The threads share the network, and PyTorch lets go of Python's lock while it computes. A batch that nobody waits for ends at its next token,
of a beam search at its next prompt.
"""

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from imprint.models.network import Network

SMALL_NETWORK = 100_000_000
"""Most parameters of a network whose products leave cores idle."""
SMALL_CACHE_BYTES = 2**29
"""Largest key-value cache of a batch beside which others fit into memory."""
MOST_THREADS = 4
"""Most threads; more would wait for each other, since Python's own part of a step is computed by one of them at a time."""
B = TypeVar("B")
R = TypeVar("R")
Check = Callable[[], None]
"""Called between tokens; raises `AbandonedError` where nobody waits for them any more."""


class AbandonedError(Exception):
    """Ends the thread of a batch after an error in another one, or after Ctrl-C."""


def threads_for(network: Network, rows: int, tokens: int) -> int:
    """How many batches of so many rows of at most so many tokens to compute at a time; 1 where OMP_NUM_THREADS is 1."""
    shape = network.shape
    cache_bytes = rows * tokens * shape.num_layers * 2 * shape.num_kv_heads * shape.head_dim * network.dtype.itemsize
    small = network.num_parameters <= SMALL_NETWORK and cache_bytes <= SMALL_CACHE_BYTES
    shared = network.device.type == "cpu" and network.host_rows is None and network.quantized_head is None  # these write to the embedding
    return min(torch.get_num_threads(), MOST_THREADS) if small and shared else 1


def side_by_side(compute: Callable[[B, Check], R], batches: Sequence[B], threads: int) -> Generator[R, None, None]:
    """What `compute` returns for each batch, in their order, computed by so many threads, between which the cores are divided.

    An error in a batch is raised in its turn and ends the others, as closing the iterator does.
    """
    if threads == 1:
        for batch in batches:
            yield compute(batch, lambda: None)
        return
    abandoned = threading.Event()
    cores = torch.get_num_threads()

    def check() -> None:
        if abandoned.is_set():
            raise AbandonedError

    with ThreadPoolExecutor(threads, "imprint-batch", torch.set_num_threads, (max(1, cores // threads),)) as pool:
        try:
            for future in [pool.submit(compute, batch, check) for batch in batches]:
                yield future.result()
        finally:
            abandoned.set()
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(cores)  # the threads have set MKL's number for the whole process
