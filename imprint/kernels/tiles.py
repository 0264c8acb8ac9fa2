"""Tile sizes of the kernels: how much of a weight one program reads.

Legend: N rows (output features), K columns (input features), W words of 32 bits of a row. The tiles follow searches on one H200 with the
weights of ChatGLM-6B (benchmarks/kernels.py --search, Triton 3.6). For one token, over 732 tiles on 2026-11-29: what the rules choose took
at most 6 % longer than the fastest tile of each weight. For more tokens, over 1,898 on 2026-11-30: all weights of a layer together took at
most 6 % longer. Another card uses the same, which are right there and may not be the fastest.
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
    parts: int = 1
    """Programs that share the columns of a row."""
    unroll: int = 0
    """Tiles that such a loop goes through at a time where that can be chosen; 0: the code is as long as the weight, without a loop."""
    described: bool = False
    """Whether the tokens are copied by a unit of the card (TMA) where it has one."""


BATCH_TOKENS = 64
"""Tokens that a weight is multiplied by at a time without being dequantized."""
LARGE_GROUPED, LARGE_ROWS, LARGE_COLUMNS = 1 << 25, 1 << 16, 1 << 14
"""Integers of a weight with groups, or rows or columns of any, of 4 bits, from which on one token is multiplied as several are."""
PROGRAMS, MAX_PARTS = 256, 8
"""Programs that keep a large GPU busy; most that share the columns of a row for that."""
SMALLEST_SHARED = 64 * 1024
"""Bytes of shared memory that a program may have on every card."""
CORES, CORE_SHARED = 128, 200 * 1024
"""Cores of a large GPU, and bytes of shared memory that the programs on one of them have together."""
ELEMENTS = 512
"""Pairs whose columns a program brings into order."""
SUMS = 1024
"""Numbers to which a program adds up the sums of others."""
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


def single_as_batch(rows: int, columns: int, *, grouped: bool) -> bool:
    """Whether one token times a weight of 4 bits (N, K) is faster by the kernels for several, on a card that starts kernels ahead.

    Microseconds on one H200, with several tokens and with one: 12288 x 4096 in groups 14 and 18, 4096 x 16384 16 and 21, a head 77 and 84,
    4096 x 4096 8 and 5.
    """
    return columns >= LARGE_COLUMNS or rows >= LARGE_ROWS or (grouped and rows * columns >= LARGE_GROUPED)


def batch_tile(rows: int, width: int, group: int, tokens: int, planes: int, shared: int = SMALLEST_SHARED) -> Tile:
    """For 1 to 64 tokens in planes and a quantized weight of N rows with so many pairs of bytes, of which `group` share a scale.

    `group` is 0 where a whole row does; `shared`: bytes of shared memory that a program may have.
    """
    block_rows, warps = (64, 4) if rows >= 2048 else (16, 1)
    columns = group or min(64, max(16, power_of_two(width)))
    of_column = 4 * 2 * (block_rows + planes * max(16, power_of_two(tokens)))  # bytes, in four stages
    while not group and columns > 16 and columns * of_column > min(shared, CORE_SHARED // 2):
        columns //= 2
    programs, parts = -(-rows // block_rows), 1
    while parts < MAX_PARTS and programs * parts < PROGRAMS and width >= 4 * parts * columns:
        parts *= 2
    at_once = CORES * (CORE_SHARED // (columns * of_column))
    stages = 4 if programs * parts <= at_once and columns * of_column <= shared else 3
    return Tile(block_rows, columns, warps, stages, parts, described=tokens > 16)


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
