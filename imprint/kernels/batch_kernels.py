"""Triton kernels that multiply 1 to 64 tokens by weights of 4 and 8 bits, which become numbers of 16 bits where they are multiplied.

Two bytes of a row are read as one pair of 16 bits, which holds L columns (2 at 8 bits, 4 at 4). So that whole registers become numbers at a
time, a tile of a weight is multiplied plane by plane: first the first columns of its pairs, then the second ones. The tokens are brought
into this order before. Where several programs share the columns of a row, a third kernel adds their sums.

Legend: N rows (output features), K columns (input features), T tokens, W pairs of a row, S programs that share the columns of a row.
"""

# ruff: noqa: N803, N806, SIM108, SIM300 - constants are in capitals, as in Triton's own kernels; branches of constants
# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

from imprint.kernels.language import constant, jit, tl

_NIBBLE = "lop3.b32 a, a, mask, magic, 0x6A; fma.rn.{pair} ${plane}, a, one, less;"
_NIBBLES = (
    "{{ .reg .b32 a, mask, magic, one, less;"
    "mov.b32 mask, 0x000F000F; mov.b32 magic, {magic}; mov.b32 one, {one}; mov.b32 less, {less};"
    + "".join(f"shr.u32 a, $4, {bit};" + _NIBBLE.replace("{plane}", str(plane)) for plane, bit in enumerate((4, 0, 12, 8)))
    + "}}"
)
"""Two pairs in one register -> four registers of two numbers each. Four bits, their sign flipped, become the last bits of 128 in bfloat16,
of 1,024 in float16, where the last bit counts 1; then that number and the 8 of the flipped sign are subtracted.

0x6A: (a and mask) xor magic."""
_BYTES = (
    "{ .reg .b32 a, b, high; .reg .f32 e, f;"
    "shr.u32 high, $2, 16;"
    "lop3.b32 a, $2, 0xFF, 0x4B000080, 0x6A; lop3.b32 b, high, 0xFF, 0x4B000080, 0x6A; mov.b32 e, a; mov.b32 f, b;"
    "sub.rn.f32 e, e, 0f4B000080; sub.rn.f32 f, f, 0f4B000080; cvt.rn.PAIR.f32 $0, f, e;"
    "lop3.b32 a, $2, 0xFF00, 0x4B008000, 0x6A; lop3.b32 b, high, 0xFF00, 0x4B008000, 0x6A; mov.b32 e, a; mov.b32 f, b;"
    "fma.rn.f32 e, e, 0f3B800000, 0fC7008000; fma.rn.f32 f, f, 0f3B800000, 0fC7008000; cvt.rn.PAIR.f32 $1, f, e; }"
)
"""Two pairs in one register -> two registers of two numbers each, by way of 2^23 and the byte, its sign flipped, in float32."""
NIBBLES_BF16 = constant(_NIBBLES.format(pair="bf16x2", magic="0x43084308", one="0x3F803F80", less="0xC308C308"))
NIBBLES_FP16 = constant(_NIBBLES.format(pair="f16x2", magic="0x64086408", one="0x3C003C00", less="0xE408E408"))
BYTES_BF16 = constant(_BYTES.replace("PAIR", "bf16x2"))
BYTES_FP16 = constant(_BYTES.replace("PAIR", "f16x2"))
"""In PTX, the assembly of NVIDIA's cards. Source: its manual, PTX ISA."""


@jit()
def nibbles(pairs, PTX: tl.constexpr, OUT: tl.constexpr):
    """The integers of 4 bits of pairs, in OUT: those of the four planes."""
    if PTX:
        TEXT: tl.constexpr = NIBBLES_BF16 if OUT == tl.bfloat16 else NIBBLES_FP16
        first, second, third, fourth = tl.inline_asm_elementwise(
            TEXT, "=&r,=&r,=&r,=&r,r", [pairs], dtype=(OUT.value, OUT.value, OUT.value, OUT.value), is_pure=True, pack=2
        )
    else:
        first, second = ((pairs << 8) >> 12).to(OUT), ((pairs << 12) >> 12).to(OUT)
        third, fourth = (pairs >> 12).to(OUT), ((pairs << 4) >> 12).to(OUT)
    return first, second, third, fourth


@jit()
def bytes_of(pairs, PTX: tl.constexpr, OUT: tl.constexpr):
    """The integers of 8 bits of pairs, in OUT: those of the two planes."""
    if PTX:
        TEXT: tl.constexpr = BYTES_BF16 if OUT == tl.bfloat16 else BYTES_FP16
        first, second = tl.inline_asm_elementwise(TEXT, "=&r,=&r,r", [pairs], dtype=(OUT.value, OUT.value), is_pure=True, pack=2)
    else:
        first, second = ((pairs << 8) >> 8).to(OUT), (pairs >> 8).to(OUT)
    return first, second


@jit()
def planes_of(pairs, BITS: tl.constexpr, PTX: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The integers of pairs (ROWS, pairs) in OUT, one plane after another: (ROWS, COLUMNS)."""
    if BITS == 4:
        first, second, third, fourth = nibbles(pairs, PTX, OUT)
        joined = tl.join(tl.join(first, third), tl.join(second, fourth))
        planes = tl.reshape(tl.permute(joined, (0, 2, 3, 1)), (ROWS, COLUMNS))
    else:
        first, second = bytes_of(pairs, PTX, OUT)
        planes = tl.reshape(tl.permute(tl.join(first, second), (0, 2, 1)), (ROWS, COLUMNS))
    return planes


@jit()
def order_columns_kernel(
    x, ordered, SIZE, W: tl.constexpr, L: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK: tl.constexpr, CHAINED: tl.constexpr
):
    """Of x (T, W), whose elements are the L columns of a pair, ordered (T, blocks, L, BLOCK_W), int16: of a block's pairs plane by plane.

    Behind the last pair of a token stand zeros up to a whole block. SIZE: T * blocks * BLOCK_W.
    """
    WHOLE: tl.constexpr = (W + BLOCK_W - 1) // BLOCK_W * BLOCK_W
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    pair = at % WHOLE
    columns = tl.load(x + at // WHOLE * W + pair, mask=(at < SIZE) & (pair < W), other=0)
    for plane in tl.static_range(L):
        tl.store(ordered + (at // BLOCK_W * L + plane) * BLOCK_W + at % BLOCK_W, (columns >> (16 * plane)).to(tl.int16), mask=at < SIZE)
    if CHAINED:  # not before: programs that wait would crowd on the cores that are idle meanwhile, and stay there
        tl.extra.cuda.gdc_launch_dependents()


@jit()
def add_parts_kernel(
    parts, bias, out, SIZE, COUNT, PARTS: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK: tl.constexpr, CHAINED: tl.constexpr
):
    """The sums (PARTS, T, COUNT) of programs that shared columns, and the bias (COUNT,), always in the same order -> out (T, COUNT).

    SIZE: T * COUNT.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    if CHAINED:
        tl.extra.cuda.gdc_wait()
    for part in tl.static_range(PARTS):
        total += tl.load(parts + part * SIZE + at, mask=at < SIZE, other=0.0)
    if HAS_BIAS:
        total += tl.load(bias + at % COUNT, mask=at < SIZE, other=0.0).to(tl.float32)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=at < SIZE)


@jit(varying=["T"])
def quantized_batch_kernel(
    x,
    pairs,
    scales,
    bias,
    out,
    T,
    first,
    end,
    PART,  # pairs of a row that a program reads
    W: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,  # pairs with the same scale, then BLOCK_W is as large; 0 for a whole row
    HAS_BIAS: tl.constexpr,
    PTX: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
    STAGES: tl.constexpr,
    DESCRIBED: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """Up to TOKENS tokens, x (T, blocks, L, BLOCK_W) in order, times rows from first to end of a weight (N, W) -> out (S, T, end - first).

    Without the bias where several programs share the columns. DESCRIBED: x is a tensor descriptor, by which the card's own unit copies.
    CHAINED: the kernel may be there before the one that orders x has ended.
    """
    L: tl.constexpr = 16 // BITS
    GROUPS: tl.constexpr = (W + GROUP - 1) // GROUP if GROUP else 1
    WHOLE: tl.constexpr = (W + BLOCK_W - 1) // BLOCK_W * BLOCK_W
    count = end - first
    index = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = tl.minimum(first + index, end - 1).to(tl.int64)
    tokens = tl.arange(0, TOKENS)
    scale = tl.load(scales + rows * GROUPS).to(tl.float32)
    total = tl.zeros((BLOCK_N, TOKENS), tl.float32)
    if not DESCRIBED:
        here = x + tl.arange(0, L * BLOCK_W)[:, None] + (tokens * (WHOLE * L))[None, :]
    begin = tl.program_id(1) * PART
    if CHAINED:
        tl.extra.cuda.gdc_wait()
    for start in tl.range(begin, tl.minimum(begin + PART, W), BLOCK_W, num_stages=STAGES):
        at = pairs + rows[:, None] * W + (start + tl.arange(0, BLOCK_W))[None, :]
        if W % BLOCK_W == 0:
            pair = tl.load(at, eviction_policy="evict_first")
        else:
            pair = tl.load(at, mask=(start + tl.arange(0, BLOCK_W) < W)[None, :], other=0, eviction_policy="evict_first")
        if DESCRIBED:
            values = x.load([0, start * L]).T  # zeros from T on
        else:
            values = tl.load(here + start * L, mask=(tokens < T)[None, :], other=0)
        if GROUP:
            scale = tl.load(scales + rows * GROUPS + start // GROUP).to(tl.float32)
        total += tl.dot(planes_of(pair, BITS, PTX, values.dtype, BLOCK_N, L * BLOCK_W), values) * scale[:, None]
    if HAS_BIAS:
        total += tl.load(bias + rows - first).to(tl.float32)[:, None]
    place = (tl.program_id(1) * T + tokens)[None, :] * count + index[:, None]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=(index < count)[:, None] & (tokens < T)[None, :])
