"""Triton kernels for weights of 4 and 8 bits: dequantize them, or multiply one token by them.

Legend: N rows (output features), K columns (input features), L columns that share a word of 32 bits (8 or 4), W words of a row.
A word holds its columns in the order of the stored bytes; at 4 bits the first column of a byte is in its high half. No kernel converts an
integer to a float by an instruction: its bits become the mantissa of a float of a known exponent, from which a constant is subtracted.
"""

# ruff: noqa: N803, N806 - constants are in capitals, as in Triton's own kernels
# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

from imprint.kernels.gated_kernels import activate
from imprint.kernels.language import jit, tl


@jit()
def column_value(word, COLUMN: tl.constexpr, BITS: tl.constexpr):
    """The integers of one of the L columns of words (uint32), in fp32, exactly, times 2 ** SHIFT."""
    BIT: tl.constexpr = 8 * (COLUMN // 2) + 4 * (1 - COLUMN % 2) if BITS == 4 else 8 * COLUMN
    MOVED: tl.constexpr = 0 if BIT + BITS <= 23 else (12 if BITS == 4 else 16)
    SHIFT: tl.constexpr = BIT - MOVED
    MASK: tl.constexpr = (2**BITS - 1) << SHIFT
    # 2^23 and the integer, its sign bit flipped: from 0 to 2^BITS - 1, at this bit
    MAGIC: tl.constexpr = 0x4B000000 | (2 ** (BITS - 1) << SHIFT)
    OFFSET: tl.constexpr = 2.0**23 + 2.0 ** (BITS - 1 + SHIFT)
    bits = ((word >> MOVED) & MASK) ^ MAGIC
    return bits.to(tl.float32, bitcast=True) - OFFSET


@jit()
def column_unit(COLUMN: tl.constexpr, BITS: tl.constexpr):
    """What column_value of an integer must be multiplied by: 2 ** -SHIFT, as in column_value."""
    BIT: tl.constexpr = 8 * (COLUMN // 2) + 4 * (1 - COLUMN % 2) if BITS == 4 else 8 * COLUMN
    MOVED: tl.constexpr = 0 if BIT + BITS <= 23 else (12 if BITS == 4 else 16)
    UNIT: tl.constexpr = 1.0 / 2 ** (BIT - MOVED)
    return UNIT


@jit()
def column_weight(word, scale, COLUMN: tl.constexpr, BITS: tl.constexpr, ROUND: tl.constexpr, OUT: tl.constexpr):
    """The weights of one column: the exact product with the scale, rounded to ROUND and then to OUT."""
    product = column_value(word, COLUMN, BITS) * (scale * column_unit(COLUMN, BITS))
    return product.to(ROUND).to(OUT)


@jit(unaligned=["words", "scales"])
def dequantize_kernel(
    words,
    scales,
    out,
    first,
    end,
    W: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,  # words with the same scale, 0 for a whole row
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Rows from first to end of words (N, W) and scales (N,) or (N, groups) -> out (end - first, K)."""
    L: tl.constexpr = 32 // BITS
    OUT: tl.constexpr = out.dtype.element_ty
    ROUND: tl.constexpr = OUT if GROUP else scales.dtype.element_ty
    GROUPS: tl.constexpr = (W + GROUP - 1) // GROUP if GROUP else 1
    rows = first + tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]
    word_index = tl.program_id(0) * BLOCK_W + tl.arange(0, BLOCK_W)[None, :]
    mask = (rows < end) & (word_index < W)
    word = tl.load(words + rows * W + word_index, mask=mask, other=0, eviction_policy="evict_first").to(tl.uint32, bitcast=True)
    if GROUP:
        # the hint lets the threads hold the scales as they hold the words; each still reads one at a time
        scale = tl.load(scales + tl.max_contiguous(rows * GROUPS + word_index // GROUP, (1, 2)), mask=mask, other=0).to(tl.float32)
    else:
        scale = tl.load(scales + rows, mask=rows < end, other=0).to(tl.float32)
    # the first join gives the slowest index
    if BITS == 4:
        c04 = tl.join(column_weight(word, scale, 0, 4, ROUND, OUT), column_weight(word, scale, 4, 4, ROUND, OUT))
        c15 = tl.join(column_weight(word, scale, 1, 4, ROUND, OUT), column_weight(word, scale, 5, 4, ROUND, OUT))
        c26 = tl.join(column_weight(word, scale, 2, 4, ROUND, OUT), column_weight(word, scale, 6, 4, ROUND, OUT))
        c37 = tl.join(column_weight(word, scale, 3, 4, ROUND, OUT), column_weight(word, scale, 7, 4, ROUND, OUT))
        weight = tl.join(tl.join(c04, c26), tl.join(c15, c37))
    else:
        c02 = tl.join(column_weight(word, scale, 0, 8, ROUND, OUT), column_weight(word, scale, 2, 8, ROUND, OUT))
        c13 = tl.join(column_weight(word, scale, 1, 8, ROUND, OUT), column_weight(word, scale, 3, 8, ROUND, OUT))
        weight = tl.join(c02, c13)
    weight = tl.reshape(weight, (BLOCK_N, BLOCK_W * L))
    column = tl.program_id(0) * BLOCK_W * L + tl.arange(0, BLOCK_W * L)[None, :]
    mask = (rows < end) & (column < W * L)
    tl.store(out + (rows - first) * (W * L) + column, weight, mask=mask)


@jit()
def split_columns(x, BLOCK_W: tl.constexpr):
    """(BLOCK_W, 8) -> the eight columns."""
    even, odd = tl.split(tl.reshape(x, (BLOCK_W, 4, 2)))
    c04, c26 = tl.split(tl.reshape(even, (BLOCK_W, 2, 2)))
    c15, c37 = tl.split(tl.reshape(odd, (BLOCK_W, 2, 2)))
    c0, c4 = tl.split(c04)
    c1, c5 = tl.split(c15)
    c2, c6 = tl.split(c26)
    c3, c7 = tl.split(c37)
    return c0, c1, c2, c3, c4, c5, c6, c7


def offset_bits(bits: int) -> tuple[int, int]:
    """What `offset_value` takes: exponents beside flipped sign bits, of offsets 256 and 16.

    They are arguments of the kernel, not constants of it: so one operation masks bits and exchanges them, which can have one constant only.
    """
    sign: int = 2 ** (bits - 1)
    return 0x43800000 | (sign << 15), 0x41800000 | (sign << 19)


@jit()
def offset_value(word, low, high, COLUMN: tl.constexpr, BITS: tl.constexpr):
    """The integers of one of the L columns of words (uint32) plus an offset, in fp32, exactly: no subtraction is needed here.

    The integer goes to the highest bits of the mantissa, so that the offset is small: 2^8, or 2^4 for the high half of a byte.
    """
    BYTE: tl.constexpr = COLUMN // 2 if BITS == 4 else COLUMN
    HIGH: tl.constexpr = BITS == 4 and COLUMN % 2 == 0
    MASK: tl.constexpr = (2**BITS - 1) << (19 if HIGH else 15)
    moved = (word << (15 - 8 * BYTE)) if BYTE < 2 else (word >> (8 * BYTE - 15))
    return ((moved & MASK) ^ (high if HIGH else low)).to(tl.float32, bitcast=True)


@jit()
def offset_sum(x, BLOCK_W: tl.constexpr, BITS: tl.constexpr):
    """What the offsets of `offset_value` add to the products of x (BLOCK_W, L) with a row: (BLOCK_W)."""
    if BITS == 4:
        c0, c1, c2, c3, c4, c5, c6, c7 = split_columns(x, BLOCK_W)
        total = ((c0 + c2) + (c4 + c6)) * (16.0 + 8.0) + ((c1 + c3) + (c5 + c7)) * (256.0 + 8.0)
    else:
        even, odd = tl.split(tl.reshape(x, (BLOCK_W, 2, 2)))
        c0, c2 = tl.split(even)
        c1, c3 = tl.split(odd)
        total = ((c0 + c2) + (c1 + c3)) * (256.0 + 128.0)
    return total


@jit()
def weighted_sum(word, x, total, low, high, BLOCK_W: tl.constexpr, BITS: tl.constexpr):
    """Add to `total` the products of x (BLOCK_W, L) with words (BLOCK_N, BLOCK_W) and their offsets, summed over the columns of a word."""
    if BITS == 4:
        c0, c1, c2, c3, c4, c5, c6, c7 = split_columns(x, BLOCK_W)
        total += offset_value(word, low, high, 0, 4) * c0[None, :]
        total += offset_value(word, low, high, 1, 4) * c1[None, :]
        total += offset_value(word, low, high, 2, 4) * c2[None, :]
        total += offset_value(word, low, high, 3, 4) * c3[None, :]
        total += offset_value(word, low, high, 4, 4) * c4[None, :]
        total += offset_value(word, low, high, 5, 4) * c5[None, :]
        total += offset_value(word, low, high, 6, 4) * c6[None, :]
        total += offset_value(word, low, high, 7, 4) * c7[None, :]
    else:
        even, odd = tl.split(tl.reshape(x, (BLOCK_W, 2, 2)))
        c0, c2 = tl.split(even)
        c1, c3 = tl.split(odd)
        total += offset_value(word, low, high, 0, 8) * c0[None, :]
        total += offset_value(word, low, high, 1, 8) * c1[None, :]
        total += offset_value(word, low, high, 2, 8) * c2[None, :]
        total += offset_value(word, low, high, 3, 8) * c3[None, :]
    return total


@jit()
def add_words(
    total,
    x,
    words,
    scales,
    rows,
    start,
    low,
    high,
    W: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
    CUT: tl.constexpr,
):
    """Add to `total` (BLOCK_N, BLOCK_W) the products of one tile with x; CUT: words behind the last one are left out."""
    L: tl.constexpr = 32 // BITS
    GROUPS: tl.constexpr = (W + GROUP - 1) // GROUP if GROUP else 1
    word_index = start + tl.arange(0, BLOCK_W)
    x_at = x + word_index[:, None] * L + tl.arange(0, L)[None, :]
    words_at = words + rows[:, None] * W + word_index[None, :]
    if CUT:
        word = tl.load(words_at, mask=word_index[None, :] < W, other=0, eviction_policy="evict_first")
        values = tl.load(x_at, mask=word_index[:, None] < W, other=0).to(tl.float32)
    else:
        word = tl.load(words_at, eviction_policy="evict_first")
        values = tl.load(x_at).to(tl.float32)
    word = word.to(tl.uint32, bitcast=True)
    # no sum is large, which would cost precision: what the offsets of a tile will add is subtracted first
    part = (tl.zeros((BLOCK_N, BLOCK_W), tl.float32) if GROUP else total) - offset_sum(values, BLOCK_W, BITS)[None, :]
    part = weighted_sum(word, values, part, low, high, BLOCK_W, BITS)
    if GROUP:
        group = tl.max_contiguous(rows[:, None] * GROUPS + tl.minimum(word_index // GROUP, GROUPS - 1)[None, :], (1, 2))
        part = total + part * tl.load(scales + group).to(tl.float32)
    return part


@jit(unaligned=["words", "scales"], varying=["low", "high"])
def quantized_vector_kernel(
    x,
    words,
    scales,
    bias,
    out,
    first,
    end,
    low,  # as of offset_bits
    high,
    W: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,  # words with the same scale, 0 for a whole row
    HAS_BIAS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
    UNROLL: tl.constexpr,  # tiles that a loop goes through at a time; 0: there is no loop
    GELU: tl.constexpr,
):
    """One token x (K,) times rows from first to end of a weight -> out (end - first,); GELU: as of dense_vector_kernel."""
    index = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = tl.minimum(first + index, end - 1).to(tl.int64)
    low, high = low.to(tl.uint32, bitcast=True), high.to(tl.uint32, bitcast=True)
    # asked for first, so that the end does not wait for them
    row_scale = tl.load(scales + rows).to(tl.float32) if GROUP == 0 else 1.0
    added = tl.load(bias + rows - first).to(tl.float32) if HAS_BIAS else 0.0
    total = tl.zeros((BLOCK_N, BLOCK_W), tl.float32)
    if UNROLL:
        for start in tl.range(0, W // BLOCK_W * BLOCK_W, BLOCK_W, loop_unroll_factor=UNROLL):
            total = add_words(total, x, words, scales, rows, start, low, high, W, BITS, GROUP, BLOCK_N, BLOCK_W, False)
        if W % BLOCK_W:
            total = add_words(total, x, words, scales, rows, W // BLOCK_W * BLOCK_W, low, high, W, BITS, GROUP, BLOCK_N, BLOCK_W, True)
    else:
        for start in tl.static_range(0, W, BLOCK_W):
            total = add_words(total, x, words, scales, rows, start, low, high, W, BITS, GROUP, BLOCK_N, BLOCK_W, start + BLOCK_W > W)
    result = tl.sum(total, 1) * row_scale + added
    if GELU:
        result, _ = activate(result.to(out.dtype.element_ty).to(tl.float32), True)
    tl.store(out + index, result.to(out.dtype.element_ty), mask=first + index < end)
