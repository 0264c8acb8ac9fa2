"""Launches the kernels of attention with one new token per sequence. Imported only where they are launched: Triton is slow to import.

Legend: B sequences, G heads of keys and values, Q query heads that share each of them, D head size, P keys of all prefixes.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from imprint.kernels.attend_step_kernels import attend_prefixes_kernel, attend_rows_kernel, merge_states_kernel
from imprint.kernels.current_device import on_device
from imprint.kernels.tiles import power_of_two

MIN_SHARING_ROWS = 8
"""Fewest sequences for which a prefix is read for several of them at once."""
SHARING_QUERIES = 16
"""Queries that read a prefix together: the rows of a tensor core's smallest product."""
SHARED_KEYS = 32
"""Keys of a prefix that such a program reads at a time."""
PROCESSORS_OF_INTERPRETER = 2
"""That Triton's interpreter is taken to have."""


@dataclass(frozen=True)
class StepTile:
    """How a sequence's keys are read."""

    keys: int
    """That a program reads at a time, a power of two."""
    warps: int
    """Groups of 32 threads of a program; one waits for no other."""
    programs: int
    """That keep a processor of the GPU busy."""
    splits: int
    """Most programs that share the keys of one sequence."""


SINGLE = StepTile(keys=16, warps=1, programs=8, splits=16)
"""Where each query head has keys of its own."""
GROUPED = StepTile(keys=32, warps=4, programs=2, splits=32)
"""Where several query heads share keys, which tensor cores multiply."""


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


@dataclass(frozen=True)
class Rotation:
    """The angles by which queries and new keys are rotated, as by `kernels.rotate`."""

    cos: Tensor
    """(B, D)."""
    sin: Tensor
    """(B, D)."""
    distance: int
    """Of the two dimensions of a pair."""


@dataclass(frozen=True)
class _Split:
    """How a batch is shared among programs."""

    tile: StepTile
    splits: int
    """Programs for the keys of a sequence and head."""
    rotation: Rotation | None

    def constants(self, size: int) -> dict[str, int]:
        """Of both kernels that read keys, for heads of this size."""
        distance = 0 if self.rotation is None else self.rotation.distance
        return {"D": size, "BLOCK_D": max(16, power_of_two(size)), "S": self.splits, "DISTANCE": distance}

    def angles(self, unused: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines; `unused` where nothing is rotated."""
        return (unused, unused) if self.rotation is None else (self.rotation.cos, self.rotation.sin)


@cache
def processors(device: torch.device) -> int:
    """Of a GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else PROCESSORS_OF_INTERPRETER


def attend_step(
    query: Tensor,
    new: tuple[Tensor, Tensor],
    cached: tuple[Tensor, Tensor],
    visible: Tensor,
    *,
    prefix: KeyRanges | None = None,
    slopes: Tensor | None = None,
    rotation: Rotation | None = None,
    tile: StepTile | None = None,
) -> Tensor:
    """Query (B, G * Q, D), new keys and values (B, G, D), those of the cache (B, G, tokens, D) -> (B, G * Q, D).

    Sequence i attends to its prefix and to the first `visible[i]` tokens of slot i, of which the new one is the last; it is written to the
    cache. `slopes` (G,): see `reference_attention.attend`. `rotation`: of queries and new keys, which are not rotated yet.
    """
    query, key, value = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (query, *new))
    heads = query.shape[0] * key.shape[1]
    tile = tile or (SINGLE if query.shape[1] == key.shape[1] else GROUPED)
    splits = min(tile.splits, power_of_two(max(1, tile.programs * processors(query.device) // heads)))
    with on_device(query):
        return _attend(query, (key, value), cached, visible, prefix, slopes, _Split(tile, splits, rotation))


def _attend(
    query: Tensor,
    new: tuple[Tensor, Tensor],
    cached: tuple[Tensor, Tensor],
    visible: Tensor,
    prefix: KeyRanges | None,
    slopes: Tensor | None,
    split: _Split,
) -> Tensor:
    (rows, query_heads, size), (key, value), splits = query.shape, new, split.splits
    heads = key.shape[1]
    group = query_heads // heads
    shared = prefix is not None and rows >= MIN_SHARING_ROWS and 2 * group <= SHARING_QUERIES
    states = rows * query_heads * splits
    sums = torch.empty((states, size), dtype=torch.float32, device=query.device)
    stats = torch.empty((states, 2), dtype=torch.float32, device=query.device)
    out = torch.empty((rows, query_heads, size), dtype=query.dtype, device=query.device)
    if shared and prefix is not None:
        _attend_prefixes(query, prefix, slopes, sums, stats, split)
    keys = KeyRanges(key, value, visible, visible, visible) if prefix is None else prefix  # not looked at where there is none
    attend_rows_kernel[(splits, heads, rows)](
        *(query, key, value, *cached, keys.keys, keys.values, visible, keys.begins, keys.lengths, *split.angles(query), slopes),
        *(sums, stats, out, size**-0.5, *query.stride()[:2], *key.stride()[:2], *value.stride()[:2], *cached[0].stride()[:3]),
        *keys.keys.stride()[:2],
        G=heads,
        Q=group,
        BLOCK_Q=1 if group == 1 else max(16, power_of_two(group)),
        BLOCK_N=split.tile.keys,
        PREFIX=prefix is not None and not shared,
        STARTED=shared,
        SLOPES=slopes is not None,
        DOT=group > 1,
        num_warps=split.tile.warps,
        **split.constants(size),
    )
    if splits > 1:
        merge_states_kernel[(rows * query_heads,)](sums, stats, out, D=size, BLOCK_D=max(16, power_of_two(size)), S=splits)
    return out


def _attend_prefixes(query: Tensor, prefix: KeyRanges, slopes: Tensor | None, sums: Tensor, stats: Tensor, split: _Split) -> None:
    """Write the states that the prefixes give for all sequences."""
    rows, query_heads, size = query.shape
    heads = prefix.keys.shape[1]
    group = power_of_two(query_heads // heads)
    block_rows = SHARING_QUERIES // group
    attend_prefixes_kernel[(heads, -(-rows // block_rows))](
        *(query, prefix.keys, prefix.values, prefix.begins, prefix.lengths, prefix.order, *split.angles(query), slopes, sums, stats),
        *(size**-0.5, rows, *query.stride()[:2], *prefix.keys.stride()[:2]),
        G=heads,
        Q=query_heads // heads,
        GROUP=group,
        BLOCK_R=block_rows,
        BLOCK_N=SHARED_KEYS,
        SLOPES=slopes is not None,
        **split.constants(size),
    )
