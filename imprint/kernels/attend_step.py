"""Launches the kernels of attention with one new token per sequence. Imported only where they are launched: Triton is slow to import.

Legend: B sequences, G heads of keys and values, Q query heads that share each of them, D head size, P keys of all prefixes.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from imprint.kernels.step_attention import attend_prefixes_kernel, attend_rows_kernel, merge_states_kernel
from imprint.kernels.tiles import power_of_two

BLOCK_KEYS = 32
"""Keys that a program reads at a time."""
MAX_SPLITS = 32
"""Most programs that share the keys of one sequence."""
MIN_SHARING_ROWS = 4
"""Fewest sequences for which a prefix is read for several of them at once."""
SHARING_QUERIES = 16
"""Queries that read a prefix together: the rows of a tensor core's smallest product."""
PROGRAMS_OF_INTERPRETER = 8
"""Programs that are taken to keep Triton's interpreter busy."""


@dataclass(frozen=True)
class KeyRanges:
    """The prefixes of a batch."""

    keys: Tensor
    """(P, G, D) of all prefixes."""
    values: Tensor
    """(P, G, D)."""
    begins: Tensor
    """(B,) int64 first key of each sequence's prefix."""
    lengths: Tensor
    """(B,) int64 number of its keys."""
    order: Tensor
    """(B,) int64 the sequences, those that use the same prefix beside each other."""


@cache
def busy_programs(device: torch.device) -> int:
    """Programs that keep a device busy."""
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else PROGRAMS_OF_INTERPRETER


def attend_step(
    query: Tensor,
    new: tuple[Tensor, Tensor],
    cached: tuple[Tensor, Tensor],
    visible: Tensor,
    *,
    prefix: KeyRanges | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """Query (B, G * Q, D), new keys and values (B, G, D), those of the cache (B, G, tokens, D) -> (B, G * Q, D).

    Sequence i attends to its prefix and to the first `visible[i]` tokens of slot i, of which the new one is the last; it is written to the
    cache. `slopes` (G,): see `reference_attention.attend`.
    """
    with on_device(query):
        return _attend(query, new, cached, visible, prefix, slopes)


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Makes the tensor's GPU the current one, on which Triton launches."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def _attend(
    query: Tensor,
    new: tuple[Tensor, Tensor],
    cached: tuple[Tensor, Tensor],
    visible: Tensor,
    prefix: KeyRanges | None,
    slopes: Tensor | None,
) -> Tensor:
    query, key, value = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (query, *new))
    rows, query_heads, size = query.shape
    heads = key.shape[1]
    group, block_d = query_heads // heads, max(16, power_of_two(size))
    splits = min(MAX_SPLITS, power_of_two(max(1, busy_programs(query.device) // (rows * heads))))
    shared = prefix is not None and splits == 1 and rows >= MIN_SHARING_ROWS and 2 * group <= SHARING_QUERIES
    states = rows * query_heads * splits
    sums = torch.empty((states, size), dtype=torch.float32, device=query.device)
    stats = torch.empty((states, 2), dtype=torch.float32, device=query.device)
    out = torch.empty((rows, query_heads, size), dtype=query.dtype, device=query.device)
    if shared and prefix is not None:
        _attend_prefixes(query, prefix, slopes, sums, stats)
    keys = KeyRanges(key, value, visible, visible, visible) if prefix is None else prefix  # not looked at where there is none
    attend_rows_kernel[(splits, heads, rows)](
        *(query, key, value, *cached, keys.keys, keys.values, visible, keys.begins, keys.lengths, slopes, sums, stats, out, size**-0.5),
        *(*query.stride()[:2], *key.stride()[:2], *value.stride()[:2], *cached[0].stride()[:3], *keys.keys.stride()[:2]),
        G=heads,
        Q=group,
        D=size,
        BLOCK_Q=1 if group == 1 else max(16, power_of_two(group)),
        BLOCK_N=BLOCK_KEYS,
        BLOCK_D=block_d,
        S=splits,
        PREFIX=prefix is not None and not shared,
        STARTED=shared,
        SLOPES=slopes is not None,
        DOT=group > 1,
    )
    if splits > 1:
        merge_states_kernel[(rows * query_heads,)](sums, stats, out, D=size, BLOCK_D=block_d, S=splits)
    return out


def _attend_prefixes(query: Tensor, prefix: KeyRanges, slopes: Tensor | None, sums: Tensor, stats: Tensor) -> None:
    """Write the states that the prefixes give for all sequences."""
    rows, query_heads, size = query.shape
    heads = prefix.keys.shape[1]
    group = power_of_two(query_heads // heads)
    block_rows = SHARING_QUERIES // group
    attend_prefixes_kernel[(heads, -(-rows // block_rows))](
        *(query, prefix.keys, prefix.values, prefix.begins, prefix.lengths, prefix.order, slopes, sums, stats, size**-0.5, rows),
        *(*query.stride()[:2], *prefix.keys.stride()[:2]),
        G=heads,
        Q=query_heads // heads,
        D=size,
        GROUP=group,
        BLOCK_R=block_rows,
        BLOCK_N=BLOCK_KEYS,
        BLOCK_D=max(16, power_of_two(size)),
        SLOPES=slopes is not None,
    )
