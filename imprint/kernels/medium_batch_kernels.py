"""Triton kernels that multiply 17 to 64 tokens by weights of 4 and 8 bits: one lays the tokens out, one multiplies.

Legend: N rows (output features), K columns (input features), T tokens, L columns that share a word of 32 bits (8 or 4), W words of a row, S
spans of 16 words of a row.
"""

# ruff: noqa: N803, N806 - constants are in capitals, as in Triton's own kernels
# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

from imprint.kernels.language import jit, tl
from imprint.kernels.quantized_kernels import add_pair


@jit(varying=["T"])
def lay_out_kernel(x, planes, sums, T, W: tl.constexpr, L: tl.constexpr, S: tl.constexpr, SPANS: tl.constexpr):
    """Some spans of one token of x (T, K): planes (L, T, W) holds column c of every word together; sums (T, S) of each span, fp32."""
    token = tl.program_id(1).to(tl.int64)
    spans = tl.program_id(0) * SPANS + tl.arange(0, SPANS)
    word_index = spans[:, None] * 16 + tl.arange(0, 16)[None, :]
    total = tl.zeros((SPANS,), tl.float32)
    for column in tl.static_range(L):
        values = tl.load(x + (token * W + word_index) * L + column, mask=word_index < W, other=0)
        tl.store(planes + (column * T + token) * W + word_index, values, mask=word_index < W)
        total += tl.sum(values.to(tl.float32), 1)
    tl.store(sums + token * S + spans, total, mask=spans < S)


@jit()
def plane(at, COLUMN: tl.constexpr, size, inside):
    """The part of one plane, (16, TOKENS)."""
    return tl.trans(tl.load(at + COLUMN * size, mask=inside, other=0))


@jit(varying=["T"])
def quantized_medium_batch_kernel(
    planes,
    sums,
    words,
    scales,
    bias,
    out,
    T,
    first,
    end,
    W: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,  # words with the same scale, 16, or 0 for a whole row
    HAS_BIAS: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Up to TOKENS tokens times rows from first to end of a weight -> out (T, end - first).

    As quantized_small_batch_kernel, but what the offset of the integers adds is subtracted by means of the sums.
    """
    S: tl.constexpr = (W + 15) // 16
    OFFSET: tl.constexpr = 24.0 if BITS == 4 else 400.0
    index = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = tl.minimum(first + index, end - 1).to(tl.int64)
    tokens = tl.arange(0, TOKENS)
    total = tl.zeros((BLOCK_N, TOKENS), tl.float32)
    all_sums = tl.zeros((TOKENS,), tl.float32)
    size = T * W
    for start in tl.range(0, W, 16, num_stages=STAGES):
        word_index = start + tl.arange(0, 16)
        at = words + rows[:, None] * W + word_index[None, :]
        word = tl.load(at, mask=word_index[None, :] < W, other=0, eviction_policy="evict_first").to(tl.uint32, bitcast=True)
        x = planes + tokens[:, None] * W + word_index[None, :]
        inside = (tokens < T)[:, None] & (word_index < W)[None, :]
        part = tl.zeros((BLOCK_N, TOKENS), tl.float32) if GROUP else total
        if BITS == 4:
            part = add_pair(part, word, plane(x, 1, size, inside), plane(x, 5, size, inside), 0, True, 1, 0)
            part = add_pair(part, word, plane(x, 0, size, inside), plane(x, 4, size, inside), 4, True, 1, 0)
            part = add_pair(part, word, plane(x, 3, size, inside), plane(x, 7, size, inside), 8, True, 1, 0)
            part = add_pair(part, word, plane(x, 2, size, inside), plane(x, 6, size, inside), 12, True, 1, 0)
        else:  # a byte is 16 times its high half plus its low one
            x0, x1, x2, x3 = plane(x, 0, size, inside), plane(x, 1, size, inside), plane(x, 2, size, inside), plane(x, 3, size, inside)
            part = add_pair(part, word, x0, x2, 0, False, 1, 0)
            part = add_pair(part, word, x0, x2, 4, True, 16, 0)
            part = add_pair(part, word, x1, x3, 8, False, 1, 0)
            part = add_pair(part, word, x1, x3, 12, True, 16, 0)
        part_sums = tl.load(sums + tokens * S + start // 16, mask=tokens < T, other=0.0)
        if GROUP:
            total += (part - OFFSET * part_sums[None, :]) * tl.load(scales + rows * S + start // 16).to(tl.float32)[:, None]
        else:
            total = part
            all_sums += part_sums
    if GROUP == 0:
        total = (total - OFFSET * all_sums[None, :]) * tl.load(scales + rows).to(tl.float32)[:, None]
    if HAS_BIAS:
        total += tl.load(bias + rows - first).to(tl.float32)[:, None]
    mask = (first + index < end)[:, None] & (tokens < T)[None, :]
    tl.store(out + tokens[None, :] * (end - first) + index[:, None], total.to(out.dtype.element_ty), mask=mask)
