"""Triton kernels that multiply 2 to 64 tokens by weights of 4 and 8 bits, which become numbers of 16 bits where they are multiplied.

Two bytes of a row are read as one pair of 16 bits, which holds L columns (2 at 8 bits, 4 at 4). So that whole registers become numbers at a
time, a tile of a weight is multiplied plane by plane: first the first columns of its pairs, then the second ones. The tokens are split so
before.

Legend: N rows (output features), K columns (input features), T tokens, W pairs of a row, S programs that share the columns of a row.
"""

# ruff: noqa: N803, N806, SIM300 - constants are in capitals, as in Triton's own kernels
# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

from imprint.kernels.language import constant, jit, tl

FEW_TOKENS = constant(32)
"""Tokens of which the last of several programs adds the sums at a time."""
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
def split_columns_kernel(x, planes, counters, SIZE, L: tl.constexpr, COUNTERS: tl.constexpr, BLOCK: tl.constexpr):
    """Of x (T, W), whose elements are the L columns of a pair, planes (L, T, W), int16; and as many counters of zero. SIZE: T * W."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.load(x + at, mask=at < SIZE, other=0)
    for plane in tl.static_range(L):
        tl.store(planes + plane * SIZE + at, (columns >> (16 * plane)).to(tl.int16), mask=at < SIZE)
    if tl.program_id(0) == 0:
        tl.store(counters + tl.arange(0, COUNTERS), 0)


@jit()
def places(index, tokens, count, T):
    """Where the products of rows and tokens stand in a result (T, count), and which of them there are."""
    return tokens[None, :] * count + index[:, None], (index < count)[:, None] & (tokens < T)[None, :]


@jit()
def add_sums(sums, added, out, index, count, T, BLOCK_N: tl.constexpr, FEW: tl.constexpr):
    """The sums (S, T, count) of some rows, and what is added to each row, in out (T, count)."""
    for token in range(0, T, FEW):
        place, inside = places(index, token + tl.arange(0, FEW), count, T)
        total = tl.zeros((BLOCK_N, FEW), tl.float32)
        for part in range(tl.num_programs(1)):
            total += tl.load(sums + part * T * count + place, mask=inside, other=0.0, cache_modifier=".cg")
        tl.store(out + place, (total + added[:, None]).to(out.dtype.element_ty), mask=inside)


@jit()
def write(total, added, out, sums, counters, index, tokens, count, T, SHARED: tl.constexpr, BLOCK_N: tl.constexpr, TOKENS: tl.constexpr):
    """The products (BLOCK_N, TOKENS) and what is added to each row, in out (T, count).

    SHARED: in the sums (S, T, count) of this program. The last program of these rows, which finds their counter at S - 1, adds them up,
    always in the same order.
    """
    place, inside = places(index, tokens, count, T)
    if not SHARED:
        tl.store(out + place, (total + added[:, None]).to(out.dtype.element_ty), mask=inside)
    else:
        tl.store(sums + tl.program_id(1) * T * count + place, total, mask=inside)
        tl.debug_barrier()
        if tl.atomic_add(counters + tl.program_id(0), 1) == tl.num_programs(1) - 1:
            add_sums(sums, added, out, index, count, T, BLOCK_N, FEW_TOKENS if TOKENS > FEW_TOKENS else TOKENS)


@jit(varying=["T"])
def quantized_batch_kernel(
    x,
    pairs,
    scales,
    bias,
    out,
    sums,
    counters,
    T,
    first,
    end,
    PART,  # pairs of a row that a program reads
    W: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,  # pairs with the same scale, then BLOCK_W is as large; 0 for a whole row
    HAS_BIAS: tl.constexpr,
    SHARED: tl.constexpr,
    PTX: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_W: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Up to TOKENS tokens, x (L, T, W) in planes, times rows from first to end of a weight (N, W) -> out (T, end - first).

    SHARED: several programs share the columns, each with sums of its own (S, T, end - first), fp32. A counter is of all programs
    of the same rows.
    """
    L: tl.constexpr = 16 // BITS
    GROUPS: tl.constexpr = (W + GROUP - 1) // GROUP if GROUP else 1
    count = end - first
    index = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = tl.minimum(first + index, end - 1).to(tl.int64)
    tokens = tl.arange(0, TOKENS)
    column = tl.arange(0, L * BLOCK_W)
    here = x + ((column // BLOCK_W) * (T * W) + column % BLOCK_W)[:, None] + (tokens * W)[None, :]
    scale = tl.load(scales + rows * GROUPS).to(tl.float32)
    total = tl.zeros((BLOCK_N, TOKENS), tl.float32)
    begin = tl.program_id(1) * PART
    for start in tl.range(begin, tl.minimum(begin + PART, W), BLOCK_W, num_stages=STAGES):
        at = pairs + rows[:, None] * W + (start + tl.arange(0, BLOCK_W))[None, :]
        if W % BLOCK_W == 0:
            pair = tl.load(at, eviction_policy="evict_first")
            values = tl.load(here + start, mask=(tokens < T)[None, :], other=0)
        else:
            pair = tl.load(at, mask=(start + tl.arange(0, BLOCK_W) < W)[None, :], other=0, eviction_policy="evict_first")
            values = tl.load(here + start, mask=(tokens < T)[None, :] & (start + column % BLOCK_W < W)[:, None], other=0)
        if GROUP:
            scale = tl.load(scales + rows * GROUPS + start // GROUP).to(tl.float32)
        total += tl.dot(planes_of(pair, BITS, PTX, values.dtype, BLOCK_N, L * BLOCK_W), values) * scale[:, None]
    added = tl.zeros((BLOCK_N,), tl.float32)
    if HAS_BIAS:
        added = tl.load(bias + rows - first).to(tl.float32)
    write(total, added, out, sums, counters, index, tokens, count, T, SHARED, BLOCK_N, TOKENS)
