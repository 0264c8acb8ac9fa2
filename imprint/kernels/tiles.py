"""Tile sizes of the kernels: how much of a weight one program reads.

Legend: N rows (output features), K columns (input features), W words of 32 bits of a row. The tiles for one token follow a search over 732
tiles on 2026-11-29, on one H200 with the weights of ChatGLM-6B (benchmarks/kernels.py --search, Triton 3.6): what the rules choose took at
most 6 % longer than the fastest tile of each weight. Those for more tokens are older. Another card uses the same, which are right there and
may not be the fastest.
"""

from dataclasses import dataclass

WARP = 32
"""Threads."""
UNROLLED = 64
"""Groups of eight columns of 16 bits that a thread reads at most: more makes long code."""
UNROLLED_WORDS = 128
"""Words that a thread reads at most."""

VECTOR_UNROLL = 0
"""Tiles of a quantized weight that a loop for one token goes through at a time; 0: code without a loop, which may be long to fetch. Not
searched yet: `benchmarks/kernels.py --search --only vector` does."""


@dataclass(frozen=True)
class Tile:
    """What one program computes at a time."""

    rows: int
    """Rows of the weight, a power of two."""
    columns: int
    """Words or columns of the weight, a power of two; a program goes through all of them."""
    warps: int
    """Groups of 32 threads."""
    stages: int = 1
    """Parts of the weight that are on their way from memory at a time, where a loop reads them."""
    unroll: int = 0
    """Tiles that such a loop goes through at a time where that can be chosen; 0: the code is as long as the weight, without a loop."""


SMALL_BATCH_TOKENS = 16
"""Tokens that a weight is multiplied by at a time, read as they are."""
MEDIUM_BATCH_TOKENS = 64
"""Tokens, laid out anew, that a weight is multiplied by at a time without being dequantized."""
LAID_OUT_SPANS = 8
"""Spans of 16 words that a program lays out."""
DEQUANTIZE = Tile(rows=4, columns=128, warps=4)
UPDATE = Tile(rows=1, columns=1024, warps=4)
"""Of AdamW. Not searched yet: `benchmarks/update.py` does."""


def vector_tile(rows: int, words: int, group: int) -> Tile:
    """For one token and a quantized weight (N, W), of which `group` words share a scale (0: a whole row)."""
    warps = 8 if words > 2048 else 4 if words > 1024 else 2 if group else 1
    columns = min(power_of_two(words), 2 * WARP * warps)
    each = -(-words // columns) * columns // (WARP * warps)
    unroll = VECTOR_UNROLL if 2 * VECTOR_UNROLL * columns <= words else 0
    if group:
        return Tile(bounded_rows(rows, each, largest=8), columns, warps, unroll=unroll)
    # several rows share what x costs, while there are enough warps for a GPU
    return Tile(bounded_rows(rows * warps // 4, each, largest=4, unrolled=UNROLLED_WORDS), columns, warps, unroll=unroll)


def small_batch_tile(rows: int, words: int, group: int) -> Tile:
    """For up to 16 tokens and a quantized weight (N, W), of which `group` words share a scale (0: a whole row)."""
    columns = group or min(32, max(16, power_of_two(words)))
    large = rows >= 8192
    return Tile(64 if large else 16, columns, 4 if large else 1, stages=6 if group else 4)


def medium_batch_tile(rows: int) -> Tile:
    """For 17 to 64 tokens and a quantized weight of N rows. Not searched yet."""
    return Tile(128 if rows >= 65536 else 64 if rows >= 8192 else 32, 16, 8 if rows >= 65536 else 4, stages=3)


def dense_tile(rows: int, columns: int) -> Tile:
    """For one token and a weight of 16 bits (N, K)."""
    warps = 1 if columns <= 4096 else 4
    wide = min(power_of_two(columns), 16 * WARP * warps)
    each = -(-columns // wide) * wide // (8 * WARP * warps)
    return Tile(bounded_rows(rows, each, largest=4 if warps == 1 else 2), wide, warps)


def bounded_rows(rows: int, elements: int, *, largest: int, unrolled: int = UNROLLED) -> int:
    """The rows of a tile whose row gives `elements` to every thread: enough programs for a GPU, and code of bounded length."""
    chosen = largest
    while chosen > 1 and (chosen * max(elements, 1) > unrolled or rows < 512 * chosen):
        chosen //= 2
    return chosen


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below the number."""
    return 1 << (number - 1).bit_length()
