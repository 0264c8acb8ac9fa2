"""A Triton kernel that rotates pairs of dimensions, as rotary position embeddings do (Su et al. 2021).

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
