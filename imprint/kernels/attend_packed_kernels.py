"""Triton kernels of attention over packed rows behind a shared prefix: the forward pass and the gradients, without stored scores.

As FlashAttention (Dao et al. 2022): scores are computed tile by tile, and again in the backward pass from the log-sum-exp. A tile of tokens
visits the keys of the prefix, and then only those between the first and the last key that one of its tokens attends to.

Legend: T packed tokens, P prefix length, H query heads, G heads of keys and values, D head size, B sequences, S parts of the tokens.
Pointers are named as the tensors. `first` and `end` (T,) are the first key of the pack that a token attends to and the one after the last
one, `seq_end` (T,) the token after its sequence. Scores are in units of log 2, to which `scale` and slopes bring them; `factor` is the
scale without that unit.
"""

# ruff: noqa: N803 - constants are in capitals, as in Triton's own kernels
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from imprint.kernels.language import jit, tl


@jit()
def load_rows(pointer, rows, valid, row_stride, columns, D: tl.constexpr):
    """(rows, columns) of a tensor; 0 where a row is not valid or a column is beyond D."""
    where = pointer + rows.to(tl.int64)[:, None] * row_stride + columns[None, :]
    return tl.load(where, mask=valid[:, None] & (columns < D)[None, :], other=0.0)


@jit()
def store_rows(pointer, rows, valid, row_stride, columns, values, D: tl.constexpr):
    """Store (rows, columns), but for what `load_rows` reads as 0."""
    where = pointer + rows.to(tl.int64)[:, None] * row_stride + columns[None, :]
    tl.store(where, values.to(pointer.dtype.element_ty), mask=valid[:, None] & (columns < D)[None, :])


@jit()
def load_slope(slopes, group, ALIBI: tl.constexpr):
    """The ALiBi slope of a head of keys; 0 without ALiBi."""
    slope = 0.0
    if ALIBI:
        slope = tl.load(slopes + group)
    return slope


@jit()
def load_tile(first, end, seq_ids, tokens, TILE: tl.constexpr):
    """The tile of tokens of a program: index, whether there is such a token, first key and the one after the last, sequence."""
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    valid = rows < tokens
    begin = tl.load(first + rows, mask=valid, other=tokens)
    stop = tl.load(end + rows, mask=valid, other=0)
    return rows, valid, begin, stop, tl.load(seq_ids + rows, mask=valid, other=0)


@jit()
def own_scores(q, k, keys, begin, stop, slope, scale, ALIBI: tl.constexpr):
    """(tokens, keys) scores of keys of the pack; minus infinity where a token does not attend to a key."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if ALIBI:
        scores += slope * (keys[None, :] - begin[:, None]).to(tl.float32)
    return tl.where((keys[None, :] >= begin[:, None]) & (keys[None, :] < stop[:, None]), scores, float("-inf"))


@jit()
def prefix_scores(q, k, keys, valid, masked, offsets, seq, length, slope, scale, MASKED: tl.constexpr, ALIBI: tl.constexpr):
    """(tokens, keys) scores of keys of the prefix; minus infinity where a token does not attend to a key."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if ALIBI:
        scores += slope * tl.load(offsets + keys, mask=keys < length, other=0)[None, :].to(tl.float32)
    seen = valid[:, None] & (keys < length)[None, :]
    if MASKED:
        seen &= tl.load(masked + seq[:, None] * length + keys[None, :], mask=seen, other=1) == 0
    return tl.where(seen, scores, float("-inf"))


@jit()
def add_values(scores, v, largest, total, sums):
    """One step of the softmax: the largest score, the sum of the weights and the weighted sum of the values, with these keys too."""
    larger = tl.maximum(largest, tl.max(scores, 1))
    base = tl.where(larger == float("-inf"), 0.0, larger)
    weights, factor = tl.exp2(scores - base[:, None]), tl.exp2(largest - base)
    sums = tl.dot(weights.to(v.dtype), v, sums * factor[:, None], input_precision="ieee")
    return larger, total * factor + tl.sum(weights, 1), sums


@jit()
def score_gradients(scores, log_sum, g, v, delta):
    """(tokens, keys) weights and the gradients of the scores."""
    weights = tl.exp2(scores - log_sum[:, None])
    return weights, weights * (tl.dot(g, tl.trans(v), input_precision="ieee") - delta[:, None])


@jit()
def forward_kernel(
    query, key, value, prefix_key, prefix_value, masked, offsets, slopes, first, end, seq_ids, out, log_sums,
    tokens, length, query_stride, query_head, key_stride, key_head, value_stride, value_head, prefix_stride, scale,
    GROUP: tl.constexpr, D: tl.constexpr, COLUMNS: tl.constexpr, MASKED: tl.constexpr, ALIBI: tl.constexpr,
    TILE: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """One tile of tokens of one head: out (T, H, D) and log-sum-exps (H, T)."""
    head, heads = tl.program_id(1), tl.num_programs(1)
    group = head // GROUP
    columns = tl.arange(0, COLUMNS)
    rows, valid, begin, stop, seq = load_tile(first, end, seq_ids, tokens, TILE)
    q = load_rows(query + head * query_head, rows, valid, query_stride, columns, D)
    slope = load_slope(slopes, group, ALIBI)
    largest = tl.full((TILE,), float("-inf"), tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    sums = tl.zeros((TILE, COLUMNS), tl.float32)
    for start in range(0, length, KEYS):
        keys = start + tl.arange(0, KEYS)
        k = load_rows(prefix_key + group * D, keys, keys < length, prefix_stride, columns, D)
        v = load_rows(prefix_value + group * D, keys, keys < length, prefix_stride, columns, D)
        scores = prefix_scores(q, k, keys, valid, masked, offsets, seq, length, slope, scale, MASKED, ALIBI)
        largest, total, sums = add_values(scores, v, largest, total, sums)
    for start in range(tl.min(begin), tl.max(stop), KEYS):
        keys = start + tl.arange(0, KEYS)
        k = load_rows(key + group * key_head, keys, keys < tokens, key_stride, columns, D)
        v = load_rows(value + group * value_head, keys, keys < tokens, value_stride, columns, D)
        scores = own_scores(q, k, keys, begin, stop, slope, scale, ALIBI)
        largest, total, sums = add_values(scores, v, largest, total, sums)
    total = tl.where(total == 0.0, 1.0, total)  # rows behind the last token
    store_rows(out + head * D, rows, valid, heads * D, columns, sums / total[:, None], D)
    tl.store(log_sums + head * tokens + rows, largest + tl.log2(total), mask=valid)


@jit()
def query_gradient_kernel(
    query, key, value, prefix_key, prefix_value, masked, offsets, slopes, first, end, seq_ids, out, log_sums, grad, deltas, grad_query,
    tokens, length, query_stride, query_head, key_stride, key_head, value_stride, value_head, grad_stride, grad_head, prefix_stride,
    scale, factor,
    GROUP: tl.constexpr, D: tl.constexpr, COLUMNS: tl.constexpr, MASKED: tl.constexpr, ALIBI: tl.constexpr,
    TILE: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """The gradient of one tile of queries of one head (T, H, D), and `deltas` (H, T): the sums of `out` times its gradient."""
    head, heads = tl.program_id(1), tl.num_programs(1)
    group = head // GROUP
    columns = tl.arange(0, COLUMNS)
    rows, valid, begin, stop, seq = load_tile(first, end, seq_ids, tokens, TILE)
    q = load_rows(query + head * query_head, rows, valid, query_stride, columns, D)
    g = load_rows(grad + head * D, rows, valid, heads * D, columns, D)
    o = load_rows(out + head * D, rows, valid, heads * D, columns, D)
    delta = tl.sum(g.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(deltas + head * tokens + rows, delta, mask=valid)
    log_sum = tl.load(log_sums + head * tokens + rows, mask=valid, other=0.0)
    slope = load_slope(slopes, group, ALIBI)
    sums = tl.zeros((TILE, COLUMNS), tl.float32)
    for start in range(0, length, KEYS):
        keys = start + tl.arange(0, KEYS)
        k = load_rows(prefix_key + group * D, keys, keys < length, prefix_stride, columns, D)
        v = load_rows(prefix_value + group * D, keys, keys < length, prefix_stride, columns, D)
        scores = prefix_scores(q, k, keys, valid, masked, offsets, seq, length, slope, scale, MASKED, ALIBI)
        _, grad_scores = score_gradients(scores, log_sum, g, v, delta)
        sums = tl.dot(grad_scores.to(k.dtype), k, sums, input_precision="ieee")
    for start in range(tl.min(begin), tl.max(stop), KEYS):
        keys = start + tl.arange(0, KEYS)
        k = load_rows(key + group * key_head, keys, keys < tokens, key_stride, columns, D)
        v = load_rows(value + group * value_head, keys, keys < tokens, value_stride, columns, D)
        scores = own_scores(q, k, keys, begin, stop, slope, scale, ALIBI)
        _, grad_scores = score_gradients(scores, log_sum, g, v, delta)
        sums = tl.dot(grad_scores.to(k.dtype), k, sums, input_precision="ieee")
    store_rows(grad_query + head * grad_head, rows, valid, grad_stride, columns, sums * factor, D)


@jit()
def key_gradient_kernel(
    query, key, value, slopes, first, end, seq_end, log_sums, grad, deltas, grad_key, grad_value,
    tokens, query_stride, query_head, key_stride, key_head, value_stride, value_head,
    grad_key_stride, grad_key_head, grad_value_stride, grad_value_head, scale, factor,
    GROUP: tl.constexpr, D: tl.constexpr, COLUMNS: tl.constexpr, ALIBI: tl.constexpr,
    TILE: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """The gradients of one tile of the pack's keys and values of one of their heads, (T, G, D) each."""
    group, groups = tl.program_id(1), tl.num_programs(1)
    columns = tl.arange(0, COLUMNS)
    keys = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    valid = keys < tokens
    k = load_rows(key + group * key_head, keys, valid, key_stride, columns, D)
    v = load_rows(value + group * value_head, keys, valid, value_stride, columns, D)
    slope = load_slope(slopes, group, ALIBI)
    key_sums = tl.zeros((KEYS, COLUMNS), tl.float32)
    value_sums = tl.zeros((KEYS, COLUMNS), tl.float32)
    lowest = tl.min(tl.load(first + keys, mask=valid, other=tokens))
    highest = tl.max(tl.load(seq_end + keys, mask=valid, other=0))
    for member in range(GROUP):
        head = group * GROUP + member
        for start in range(lowest, highest, TILE):
            rows = start + tl.arange(0, TILE)
            inside = rows < tokens
            q = load_rows(query + head * query_head, rows, inside, query_stride, columns, D)
            g = load_rows(grad + head * D, rows, inside, groups * GROUP * D, columns, D)
            log_sum = tl.load(log_sums + head * tokens + rows, mask=inside, other=0.0)
            delta = tl.load(deltas + head * tokens + rows, mask=inside, other=0.0)
            begin = tl.load(first + rows, mask=inside, other=tokens)
            stop = tl.load(end + rows, mask=inside, other=0)
            scores = own_scores(q, k, keys, begin, stop, slope, scale, ALIBI)
            weights, grad_scores = score_gradients(scores, log_sum, g, v, delta)
            value_sums = tl.dot(tl.trans(weights.to(g.dtype)), g, value_sums, input_precision="ieee")
            key_sums = tl.dot(tl.trans(grad_scores.to(q.dtype)), q, key_sums, input_precision="ieee")
    store_rows(grad_key + group * grad_key_head, keys, valid, grad_key_stride, columns, key_sums * factor, D)
    store_rows(grad_value + group * grad_value_head, keys, valid, grad_value_stride, columns, value_sums, D)


@jit()
def prefix_gradient_kernel(
    query, prefix_key, prefix_value, masked, offsets, slopes, seq_ids, log_sums, grad, deltas, grad_key, grad_value,
    tokens, length, query_stride, query_head, prefix_stride, scale, factor, part_tokens,
    GROUP: tl.constexpr, D: tl.constexpr, COLUMNS: tl.constexpr, MASKED: tl.constexpr, ALIBI: tl.constexpr,
    TILE: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """What a part of the tokens, a whole number of tiles, adds to the gradients of one tile of the prefix: (S, P, G, D) each, in fp32."""
    group, groups, part = tl.program_id(1), tl.num_programs(1), tl.program_id(2)
    columns = tl.arange(0, COLUMNS)
    keys = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    valid = keys < length
    k = load_rows(prefix_key + group * D, keys, valid, prefix_stride, columns, D)
    v = load_rows(prefix_value + group * D, keys, valid, prefix_stride, columns, D)
    slope = load_slope(slopes, group, ALIBI)
    key_sums = tl.zeros((KEYS, COLUMNS), tl.float32)
    value_sums = tl.zeros((KEYS, COLUMNS), tl.float32)
    for member in range(GROUP):
        head = group * GROUP + member
        for start in range(part * part_tokens, tl.minimum((part + 1) * part_tokens, tokens), TILE):
            rows = start + tl.arange(0, TILE)
            inside = rows < tokens
            q = load_rows(query + head * query_head, rows, inside, query_stride, columns, D)
            g = load_rows(grad + head * D, rows, inside, groups * GROUP * D, columns, D)
            log_sum = tl.load(log_sums + head * tokens + rows, mask=inside, other=0.0)
            delta = tl.load(deltas + head * tokens + rows, mask=inside, other=0.0)
            seq = tl.load(seq_ids + rows, mask=inside, other=0)
            scores = prefix_scores(q, k, keys, inside, masked, offsets, seq, length, slope, scale, MASKED, ALIBI)
            weights, grad_scores = score_gradients(scores, log_sum, g, v, delta)
            value_sums = tl.dot(tl.trans(weights.to(g.dtype)), g, value_sums, input_precision="ieee")
            key_sums = tl.dot(tl.trans(grad_scores.to(q.dtype)), q, key_sums, input_precision="ieee")
    part_start = (part * length * groups + group) * D
    store_rows(grad_key + part_start, keys, valid, groups * D, columns, key_sums * factor, D)
    store_rows(grad_value + part_start, keys, valid, groups * D, columns, value_sums, D)
