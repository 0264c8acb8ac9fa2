"""A Triton kernel that multiplies one token by a weight of 16 bits.

Legend: N rows (output features), K columns (input features).
"""

# ruff: noqa: N803 - constants are in capitals, as in Triton's own kernels
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from imprint.kernels.gated_kernels import activate
from imprint.kernels.language import jit, tl


@jit()
def dense_vector_kernel(
    x,
    weight,
    bias,
    out,
    N,
    K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GELU: tl.constexpr,
):
    """One token x (K,) times a weight (N, K) -> out (N,); GELU: of that, rounded as it would be stored, the tanh approximation of GELU."""
    index = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = tl.minimum(index, N - 1).to(tl.int64)
    added = tl.load(bias + rows).to(tl.float32) if HAS_BIAS else 0.0  # asked for first, so that the end does not wait for it
    total = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for start in tl.static_range(0, K, BLOCK_K):
        column = start + tl.arange(0, BLOCK_K)
        at = weight + rows[:, None] * K + column[None, :]
        if start + BLOCK_K <= K:
            part = tl.load(at, eviction_policy="evict_first")
            values = tl.load(x + column)
        else:
            part = tl.load(at, mask=column[None, :] < K, other=0, eviction_policy="evict_first")
            values = tl.load(x + column, mask=column < K, other=0)
        total += part.to(tl.float32) * values.to(tl.float32)[None, :]
    result = tl.sum(total, 1) + added
    if GELU:
        result, _ = activate(result.to(out.dtype.element_ty).to(tl.float32), True)
    tl.store(out + index, result.to(out.dtype.element_ty), mask=index < N)
