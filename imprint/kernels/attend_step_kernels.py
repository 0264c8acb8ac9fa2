"""Triton kernels of attention with one new token per sequence (flash-decoding, Dao et al. 2023).

Legend: B sequences, G heads of keys and values, Q query heads that share each of them, D head size, P keys of all prefixes, S splits of the
keys of one sequence. A state is what a part of the keys gives: the weighted sum of values (D,), the largest score, the sum of weights.
"""

# ruff: noqa: N803 - constants are in capitals, as in Triton's own kernels
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from imprint.kernels.language import jit, tl


@jit()
def scores_of(query, keys, scale, slope, offset, inside, SLOPES: tl.constexpr, DOT: tl.constexpr):
    """In fp32, -inf for keys that are not `inside`: (BLOCK_Q, BLOCK_N) where several queries share the keys, else (BLOCK_N).

    `offset` (BLOCK_N): of each key from the start of the sequence, below 0 in a prefix.
    """
    if DOT:
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") * scale
        if SLOPES:
            scores += slope * offset.to(tl.float32)[None, :]
        scores = tl.where(inside[None, :], scores, float("-inf"))
    else:
        scores = tl.sum(query.to(tl.float32) * keys.to(tl.float32), 1) * scale
        if SLOPES:
            scores += slope * offset.to(tl.float32)
        scores = tl.where(inside, scores, float("-inf"))
    return scores


@jit()
def add_keys(largest, total, sums, scores, values, DOT: tl.constexpr):
    """The states (BLOCK_Q) after further keys with these scores and values (BLOCK_N, BLOCK_D)."""
    new_largest = tl.maximum(largest, tl.max(scores if DOT else scores[None, :], 1))
    finite = tl.where(new_largest == float("-inf"), 0.0, new_largest)
    shrink = tl.exp(largest - finite)
    if DOT:
        weights = tl.exp(scores - finite[:, None])
        total = total * shrink + tl.sum(weights, 1)
        sums = sums * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
    else:
        weights = tl.exp(scores - finite)
        total = total * shrink + tl.sum(weights[None, :], 1)
        sums = sums * shrink[:, None] + tl.sum(weights[:, None] * values.to(tl.float32), 0)[None, :]
    return new_largest, total, sums


@jit()
def split_of(length, split, S: tl.constexpr, BLOCK_N: tl.constexpr):
    """Where one of S shares of `length` keys begins and ends."""
    size = tl.cdiv(tl.cdiv(length, S), BLOCK_N) * BLOCK_N
    first = split * size
    return first, tl.minimum(first + size, length)


@jit()
def load_rotated(at, dims, inside, cos, sin, D: tl.constexpr, DISTANCE: tl.constexpr):
    """Numbers (..., BLOCK_D) of heads that begin at `at`, rotated as by rotate_kernel unless DISTANCE is 0; `cos`, `sin`: of the token."""
    numbers = tl.load(at + dims, mask=inside, other=0.0)
    if DISTANCE:
        other = tl.where(dims // DISTANCE % 2 == 0, dims + DISTANCE, dims - DISTANCE)
        partner = tl.load(at + other, mask=inside, other=0.0).to(tl.float32)
        c = tl.load(cos + dims, mask=dims < D, other=0.0).to(tl.float32)
        s = tl.load(sin + dims, mask=dims < D, other=0.0).to(tl.float32)
        numbers = (numbers.to(tl.float32) * c + partner * s).to(numbers.dtype)
    return numbers


# fmt: off
@jit()
def add_prefix(
    state, query, scale, slope, keys, values, begin, length, token_stride, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    S: tl.constexpr, SLOPES: tl.constexpr, DOT: tl.constexpr,
):
    """The states after this program's share of the keys of one sequence's prefix."""
    largest, total, sums = state
    dims, columns = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    first, end = split_of(length, tl.program_id(0), S, BLOCK_N)
    for start in range(first, end, BLOCK_N):
        tokens = start + columns
        mask = (tokens[:, None] < end) & (dims[None, :] < D)
        at = (begin + tokens[:, None]) * token_stride + dims[None, :]
        key, value = tl.load(keys + at, mask=mask, other=0.0), tl.load(values + at, mask=mask, other=0.0)
        scores = scores_of(query, key, scale, slope, tokens - length, tokens < end, SLOPES, DOT)
        largest, total, sums = add_keys(largest, total, sums, scores, value, DOT)
    return largest, total, sums


@jit()
def add_cached(
    state, query, scale, slope, keys, values, new_key, new_value, newest, token_stride, D: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr, S: tl.constexpr, SLOPES: tl.constexpr, DOT: tl.constexpr,
):
    """The states after this program's share of the keys of one sequence; the newest one is written to the cache.

    The shares are dealt out from the other end than those of a prefix, so that short ones of both go to different programs.
    """
    largest, total, sums = state
    dims, columns = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    first, end = split_of(newest + 1, S - 1 - tl.program_id(0), S, BLOCK_N)
    for start in range(first, end, BLOCK_N):
        tokens = start + columns
        mask = (tokens[:, None] < tl.minimum(end, newest)) & (dims[None, :] < D)
        at = tokens[:, None] * token_stride + dims[None, :]
        key, value = tl.load(keys + at, mask=mask, other=0.0), tl.load(values + at, mask=mask, other=0.0)
        is_new = tokens[:, None] == newest
        key, value = tl.where(is_new, new_key[None, :], key), tl.where(is_new, new_value[None, :], value)
        scores = scores_of(query, key, scale, slope, tokens, tokens < end, SLOPES, DOT)
        largest, total, sums = add_keys(largest, total, sums, scores, value, DOT)
    if (first <= newest) & (newest < end):
        tl.store(keys + newest * token_stride + dims, new_key, mask=dims < D)
        tl.store(values + newest * token_stride + dims, new_value, mask=dims < D)
    return largest, total, sums


@jit()
def attend_rows_kernel(
    query, new_keys, new_values, cached_keys, cached_values, prefix_keys, prefix_values, visible, begins, lengths, cos, sin, slopes,
    state_sums, state_stats, out, scale, query_row, query_head, new_key_row, new_key_head, new_value_row, new_value_head, cache_row,
    cache_head, cache_token, prefix_token, prefix_head, G: tl.constexpr, Q: tl.constexpr, D: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, S: tl.constexpr, PREFIX: tl.constexpr, STARTED: tl.constexpr, SLOPES: tl.constexpr,
    DISTANCE: tl.constexpr, DOT: tl.constexpr,
):
    """One split of the keys of one sequence and head: the states, or the result if there is one split.

    PREFIX: the keys of the sequence's prefix are part of it; STARTED: the states of the prefix are there already, as the first split's.
    DISTANCE: see load_rotated; queries and new keys are rotated.
    """
    split, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    group, dims = tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_D)
    heads = head * Q + group
    in_query = (group[:, None] < Q) & (dims[None, :] < D)
    queries = load_rotated(
        query + row * query_row + heads[:, None] * query_head, dims[None, :], in_query, cos + row * D, sin + row * D, D, DISTANCE
    )
    slope = tl.load(slopes + head) if SLOPES else 0.0
    # all that the loops need is asked for in front of the first one
    newest = tl.load(visible + row) - 1
    begin, length = (tl.load(begins + row), tl.load(lengths + row)) if PREFIX else (0, 0)
    new_key = load_rotated(
        new_keys + row * new_key_row + head * new_key_head, dims, dims < D, cos + row * D, sin + row * D, D, DISTANCE
    )
    new_value = tl.load(new_values + row * new_value_row + head * new_value_head + dims, mask=dims < D, other=0.0)
    states = (row * (G * Q) + heads) * S + split
    if STARTED:
        begun = (group < Q) & (split == 0)
        largest = tl.load(state_stats + states * 2, mask=begun, other=float("-inf"))
        total = tl.load(state_stats + states * 2 + 1, mask=begun, other=0.0)
        sums = tl.load(state_sums + states[:, None] * D + dims[None, :], mask=in_query & begun[:, None], other=0.0)
    else:
        largest = tl.full([BLOCK_Q], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_Q], tl.float32)
        sums = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    if PREFIX:
        largest, total, sums = add_prefix(
            (largest, total, sums), queries, scale, slope, prefix_keys + head * prefix_head, prefix_values + head * prefix_head,
            begin, length, prefix_token, D, BLOCK_N, BLOCK_D, S, SLOPES, DOT,
        )
    slot = row * cache_row + head * cache_head
    largest, total, sums = add_cached(
        (largest, total, sums), queries, scale, slope, cached_keys + slot, cached_values + slot, new_key, new_value,
        newest, cache_token, D, BLOCK_N, BLOCK_D, S, SLOPES, DOT,
    )
    if S == 1:
        tl.store(out + states[:, None] * D + dims[None, :], (sums / total[:, None]).to(out.dtype.element_ty), mask=in_query)
    else:
        tl.store(state_sums + states[:, None] * D + dims[None, :], sums, mask=in_query)
        tl.store(state_stats + states * 2, largest, mask=group < Q)
        tl.store(state_stats + states * 2 + 1, total, mask=group < Q)


@jit()
def merge_states_kernel(state_sums, state_stats, out, D: tl.constexpr, BLOCK_D: tl.constexpr, S: tl.constexpr):
    """The result (D,) of one sequence and query head from the states of its splits."""
    row = tl.program_id(0).to(tl.int64)
    splits, dims = tl.arange(0, S), tl.arange(0, BLOCK_D)
    states = row * S + splits
    largest = tl.load(state_stats + states * 2)
    weights = tl.exp(largest - tl.max(largest, 0))
    sums = tl.load(state_sums + states[:, None] * D + dims[None, :], mask=dims[None, :] < D, other=0.0)
    result = tl.sum(sums * weights[:, None], 0) / tl.sum(tl.load(state_stats + states * 2 + 1) * weights, 0)
    tl.store(out + row * D + dims, result.to(out.dtype.element_ty), mask=dims < D)


@jit(varying=["rows"])
def attend_prefixes_kernel(
    query, prefix_keys, prefix_values, begins, lengths, order, cos, sin, slopes, state_sums, state_stats, scale, rows, query_row,
    query_head, prefix_token, prefix_head, G: tl.constexpr, Q: tl.constexpr, D: tl.constexpr, GROUP: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, S: tl.constexpr, SLOPES: tl.constexpr, DISTANCE: tl.constexpr,
):
    """The states of the prefixes of BLOCK_R sequences that are neighbours in `order`, whose keys are read once for all of them."""
    head, block = tl.program_id(0), tl.program_id(1)
    member, dims, columns = tl.arange(0, BLOCK_R * GROUP), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_N)
    position, group = block * BLOCK_R + member // GROUP, member % GROUP
    used = (position < rows) & (group < Q)
    row = tl.load(order + position, mask=position < rows, other=0)
    heads = head * Q + group
    begin, length = tl.load(begins + row), tl.where(used, tl.load(lengths + row), 0)
    mask = used[:, None] & (dims[None, :] < D)
    queries = load_rotated(
        query + row[:, None] * query_row + heads[:, None] * query_head, dims[None, :], mask, cos + row[:, None] * D,
        sin + row[:, None] * D, D, DISTANCE,
    )
    slope = tl.load(slopes + head) if SLOPES else 0.0
    largest = tl.full([BLOCK_R * GROUP], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_R * GROUP], tl.float32)
    sums = tl.zeros([BLOCK_R * GROUP, BLOCK_D], tl.float32)
    end = tl.max(tl.where(length > 0, begin + length, 0), 0)
    first = tl.min(tl.where(length > 0, begin, end), 0)
    for start in range(first, end, BLOCK_N):
        tokens = start + columns
        in_prefix = (tokens[:, None] < end) & (dims[None, :] < D)
        at = tokens[:, None] * prefix_token + head * prefix_head + dims[None, :]
        key = tl.load(prefix_keys + at, mask=in_prefix, other=0.0)
        scores = scores_of(queries, key, scale, slope, tokens, tokens < end, False, True)
        if SLOPES:
            scores += slope * (tokens[None, :] - (begin + length)[:, None]).to(tl.float32)
        own = (tokens[None, :] >= begin[:, None]) & (tokens[None, :] < (begin + length)[:, None])
        scores = tl.where(own, scores, float("-inf"))
        largest, total, sums = add_keys(
            largest, total, sums, scores, tl.load(prefix_values + at, mask=in_prefix, other=0.0), True
        )
    states = (row * (G * Q) + heads) * S  # of the first split
    tl.store(state_sums + states[:, None] * D + dims[None, :], sums, mask=mask)
    tl.store(state_stats + states * 2, largest, mask=used)
    tl.store(state_stats + states * 2 + 1, total, mask=used)
# fmt: on
