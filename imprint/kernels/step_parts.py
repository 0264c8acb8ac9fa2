"""Triton kernels of what stands between the products of a decoding step: residual with norm, and rotary positions.

Legend: T tokens, C hidden size, H heads, D head size.
"""

# ruff: noqa: N803 - constants are in capitals, as in Triton's own kernels
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from imprint.kernels.language import jit, tl


# fmt: off
@jit()
def add_norm_kernel(
    x, y, weight, bias, total, out, factor, eps, x_row, y_row, C: tl.constexpr, BLOCK_C: tl.constexpr, CENTRED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """One token: total = x * factor + y, and its norm; a layer norm where it is CENTRED, else an RMS norm."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK_C)
    there = columns < C
    first = tl.load(x + row * x_row + columns, mask=there, other=0.0).to(tl.float32)
    second = tl.load(y + row * y_row + columns, mask=there, other=0.0).to(tl.float32)
    rounded = (first * factor + second).to(total.dtype.element_ty)
    tl.store(total + row * C + columns, rounded, mask=there)
    values = rounded.to(tl.float32)
    if CENTRED:
        values = tl.where(there, values - tl.sum(values, 0) / C, 0.0)
    values = values / tl.sqrt(tl.sum(values * values, 0) / C + eps)
    values *= tl.load(weight + columns, mask=there, other=0.0).to(tl.float32)
    if HAS_BIAS:
        values += tl.load(bias + columns, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row * C + columns, values.to(out.dtype.element_ty), mask=there)


@jit()
def rotate_kernel(
    x, cos, sin, out, x_row, x_head, H: tl.constexpr, D: tl.constexpr, SECTION: tl.constexpr, SECTIONS: tl.constexpr,
    NEIGHBOURS: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
):
    """The heads of one token, whose first SECTIONS parts of SECTION dimensions are rotated by angles of their own.

    A pair is two NEIGHBOURS, or half a section apart.
    """
    row = tl.program_id(0).to(tl.int64)
    heads, dims = tl.arange(0, BLOCK_H)[:, None], tl.arange(0, BLOCK_D)
    half = SECTION // 2
    section, inside = dims // SECTION, dims % SECTION
    if NEIGHBOURS:
        angle, second, partner = inside // 2, inside % 2 == 1, dims ^ 1
    else:
        angle, second = inside % half, inside >= half
        partner = tl.where(second, dims - half, dims + half)
    rotated = section < SECTIONS
    place = row * (SECTIONS * half) + section * half + angle
    there = (heads < H) & (dims < D)[None, :]
    cosines = tl.load(cos + place, mask=rotated, other=1.0).to(tl.float32)
    sines = tl.load(sin + place, mask=rotated, other=0.0).to(tl.float32)
    sines = tl.where(second, sines, -sines)
    own = tl.load(x + row * x_row + heads * x_head + dims[None, :], mask=there, other=0.0).to(tl.float32)
    other = tl.load(x + row * x_row + heads * x_head + partner[None, :], mask=there & rotated[None, :], other=0.0).to(tl.float32)
    result = own * cosines[None, :] + other * sines[None, :]
    tl.store(out + row * (H * D) + heads * D + dims[None, :], result.to(out.dtype.element_ty), mask=there)
# fmt: on
