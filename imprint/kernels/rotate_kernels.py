"""Triton kernels that rotate pairs of dimensions, as rotary position embeddings do (Su et al. 2021).

Legend: T tokens, H heads, D head size.
"""

# ruff: noqa: N803 - constants are in capitals, as in Triton's own kernels
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from imprint.kernels.language import jit, tl


@jit()
def rotate_kernel(
    x, cos, sin, out, heads, token_stride, head_stride,
    D: tl.constexpr, COLUMNS: tl.constexpr, DISTANCE: tl.constexpr, HEADS: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    """Some heads of one token: out (T, H, D); BACK rotates the other way, which is the gradient."""
    token = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    columns = tl.arange(0, COLUMNS)
    inside = columns < D
    valid = (rows < heads)[:, None] & inside[None, :]
    base = x + token * token_stride + rows[:, None] * head_stride
    own = tl.load(base + columns[None, :], mask=valid, other=0.0).to(tl.float32)
    other = tl.where(columns // DISTANCE % 2 == 0, columns + DISTANCE, columns - DISTANCE)
    partner = tl.load(base + other[None, :], mask=valid, other=0.0).to(tl.float32)
    c = tl.load(cos + token * D + columns, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(sin + token * D + columns, mask=inside, other=0.0).to(tl.float32)
    if BACK:
        s = -s
    result = own * c[None, :] + partner * s[None, :]
    where = out + (token * heads + rows[:, None]) * D + columns[None, :]
    tl.store(where, result.to(out.dtype.element_ty), mask=valid)


@jit(varying=("query_at", "key_at"))
def rotate_joint_kernel(
    joint, cos, sin, row, query_at, query_head, key_at, key_head,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, PAIRS: tl.constexpr, DISTANCE: tl.constexpr, HEADS: tl.constexpr,
    BACK: tl.constexpr,
):  # fmt: skip
    """Some heads of one token of `joint`, in place: QUERIES heads from `query_at`, `query_head` apart, then KEYS heads; BACK: gradients."""
    token = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    pairs = tl.arange(0, PAIRS)
    inside = pairs < D // 2
    column = pairs // DISTANCE * (2 * DISTANCE) + pairs % DISTANCE
    start = tl.where(heads < QUERIES, query_at + heads * query_head, key_at + (heads - QUERIES) * key_head)
    where = joint + token * row + start[:, None] + column[None, :]
    valid = (heads < QUERIES + KEYS)[:, None] & inside[None, :]
    first = tl.load(where, mask=valid, other=0.0).to(tl.float32)
    second = tl.load(where + DISTANCE, mask=valid, other=0.0).to(tl.float32)
    angle = token * D + column
    first_cos = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)[None, :]
    second_cos = tl.load(cos + angle + DISTANCE, mask=inside, other=0.0).to(tl.float32)[None, :]
    first_sin = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)[None, :]
    second_sin = tl.load(sin + angle + DISTANCE, mask=inside, other=0.0).to(tl.float32)[None, :]
    if BACK:
        first_sin, second_sin = second_sin, first_sin
    tl.store(where, (first * first_cos + second * first_sin).to(joint.dtype.element_ty), mask=valid)
    tl.store(where + DISTANCE, (second * second_cos + first * second_sin).to(joint.dtype.element_ty), mask=valid)
