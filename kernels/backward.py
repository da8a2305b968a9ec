"""Backward of flash cross-attention: dQ by row tiles, dK and dV by key tiles, nothing added atomically.

With P = exp(S - lse), S = scale Q K^T, and the gradients dO of the output and dlse of the log-sum-exp:

    delta = rowsum(dO * O) - dlse        dS = P * (dO V^T - delta)
    dV = P^T dO      dQ = scale dS K      dK = scale dS^T Q

(Dao et al. 2022, arXiv:2205.14135, algorithm 4; dlse enters because d lse / d S = P.) The same bits on every run.
"""

# Inside a jit function everything is a Triton value, and pointers may be None.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalSubscript=false, reportGeneralTypeIssues=false, reportUnboundVariable=false

import triton
import triton.language as tl

from .forward import LOG2E, key_span
from .head_chunks import (
    add_dot,
    chunk_width,
    dot_read_rows,
    dot_rows,
    is_peeled,
    is_wide,
    load_chunks,
    scale_rows,
    store_chunks,
    zero_chunks,
)
from .row_tiles import context_rows, row_offsets, row_tile


@triton.jit
def delta_kernel(
    Out, GradOut, Lse, GradLse, Lse2, Delta, num_queries, num_heads, num_rows,
    out_b, out_h, out_m, grad_b, grad_h, grad_m,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Per row: delta, and lse in log2, +inf where the row has no key, so that its P is 2^(s - inf) = 0."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    live = row < num_rows
    query = row % num_queries
    head = (row // num_queries) % num_heads
    b = row // (num_queries * num_heads)
    d = tl.arange(0, BLOCK_D)
    there = live[:, None] & (d < D)[None, :]
    out = tl.load(Out + (b * out_b + head * out_h + query * out_m)[:, None] + d[None, :], mask=there, other=0.0)
    grad = tl.load(
        GradOut + (b * grad_b + head * grad_h + query * grad_m)[:, None] + d[None, :], mask=there, other=0.0
    )
    delta = tl.sum(out.to(tl.float32) * grad.to(tl.float32), 1)
    if GradLse is not None:
        delta -= tl.load(GradLse + row, mask=live, other=0.0)
    lse = tl.load(Lse + row, mask=live, other=0.0)
    empty = lse == float("-inf")
    tl.store(Lse2 + row, tl.where(empty, float("inf"), lse * LOG2E), mask=live)
    tl.store(Delta + row, tl.where(empty, 0.0, delta), mask=live)


@triton.jit
def query_gradient_block(
    dq, q, grad, live, lse, delta, key_pointers, value_pointers, there, allowed, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    MASK_KEYS: tl.constexpr, MASK_SCORES: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds dS K of one block of keys; there, allowed, scale, WIDE, of q and grad: as in forward.attend_block."""
    if WIDE:
        s = dot_read_rows(q, live, key_pointers, there, D, BLOCK_D, PRECISION)  # (BLOCK_M, BLOCK_N)
    else:
        k = load_chunks(key_pointers, there, MASK_KEYS, D, BLOCK_D)
        v = load_chunks(value_pointers, there, MASK_KEYS, D, BLOCK_D)
        s = dot_rows(q, k, PRECISION)
    p = tl.math.exp2(s * scale - lse[:, None])
    if MASK_SCORES:
        p = tl.where(allowed, p, 0.0)
    elif MASK_KEYS:
        p = tl.where(there[None, :], p, 0.0)
    if WIDE:
        dp = dot_read_rows(grad, live, value_pointers, there, D, BLOCK_D, PRECISION)
        k = load_chunks(key_pointers, there, MASK_KEYS, D, BLOCK_D)
    else:
        dp = dot_rows(grad, v, PRECISION)
    return add_dot(dq, p * (dp - delta[:, None]), k, PRECISION)


@triton.jit
def query_gradient_kernel(
    Q, K, V, GradOut, Lse2, Delta, GradQ, Lengths, Mask, Ranges, CuRows,
    scale, num_queries, num_keys, num_contexts, num_kv_heads,
    q_b, q_h, q_m, k_b, k_h, k_n, v_b, v_h, v_n, grad_b, grad_h, grad_m, dq_b, dq_h, dq_m, mask_b,
    key_step, value_step,
    D: tl.constexpr, GROUP: tl.constexpr, CONTEXTS: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (row tiles * Hkv,): dQ of a tile of packed rows, one pass over its keys, as in the forward."""
    b, h, first, rows, start = row_tile(
        tl.program_id(0), CuRows, num_queries, num_contexts, num_kv_heads, GROUP, BLOCK_M, CONTEXTS
    )
    i = start + tl.arange(0, BLOCK_M)
    live = i < rows
    row_b = b.to(tl.int64) if CuRows is None else tl.full([], 0, tl.int64)
    b = b.to(tl.int64)
    h = h.to(tl.int64)
    CHUNK: tl.constexpr = chunk_width(BLOCK_D, Q.dtype.element_ty.primitive_bitwidth)
    WIDE: tl.constexpr = is_wide(BLOCK_D, Q.dtype.element_ty.primitive_bitwidth)
    d = tl.arange(0, CHUNK)
    q_at = Q + row_b * q_b + h * GROUP * q_h + first * q_m + row_offsets(i, q_h, q_m, GROUP)
    query_pointers = q_at[:, None] + d[None, :]
    q = query_pointers if WIDE else load_chunks(query_pointers, live, True, D, BLOCK_D)
    grad_at = GradOut + row_b * grad_b + h * GROUP * grad_h + first * grad_m + row_offsets(i, grad_h, grad_m, GROUP)
    grad_pointers = grad_at[:, None] + d[None, :]
    grad = grad_pointers if WIDE else load_chunks(grad_pointers, live, True, D, BLOCK_D)
    row = (row_b * num_kv_heads + h) * GROUP * num_queries + first + row_offsets(i, num_queries, 1, GROUP)
    lse = tl.load(Lse2 + row, mask=live, other=float("inf"))
    delta = tl.load(Delta + row, mask=live, other=0.0)

    low = 0
    high = key_span(Lengths, b, num_keys)
    if Ranges is not None:
        at = Ranges + (row_b * num_queries + first) * 2 + i // GROUP * 2
        row_low = tl.load(at, mask=live, other=num_keys)
        row_high = tl.minimum(tl.load(at + 1, mask=live, other=0), high)
        low = tl.minimum(tl.maximum(tl.min(row_low, 0), 0), high)
        high = tl.maximum(tl.max(row_high, 0), low)

    n = tl.arange(0, BLOCK_N)
    scale_log2 = scale * LOG2E
    dq = zero_chunks(BLOCK_M, CHUNK, BLOCK_D)
    keys = K + b * k_b + h * k_h
    values = V + b * v_b + h * v_h
    key_pointers = keys + ((low + n).to(tl.int64) * k_n)[:, None] + d[None, :]
    value_pointers = values + ((low + n).to(tl.int64) * v_n)[:, None] + d[None, :]
    if Mask is None and Ranges is None and is_peeled(Q.dtype.element_ty.primitive_bitwidth):
        full = low + (high - low) // BLOCK_N * BLOCK_N
        for _ in range(low, full, BLOCK_N):
            dq = query_gradient_block(
                dq, q, grad, live, lse, delta, key_pointers, value_pointers, n, n, scale_log2,
                D, BLOCK_D, False, False, WIDE, PRECISION,
            )  # fmt: skip
            key_pointers += key_step
            value_pointers += value_step
        if full < high:
            # The pointers again, not those of the loop: kept beside the next block's, they cost registers.
            key_pointers = keys + ((full + n).to(tl.int64) * k_n)[:, None] + d[None, :]
            value_pointers = values + ((full + n).to(tl.int64) * v_n)[:, None] + d[None, :]
            dq = query_gradient_block(
                dq, q, grad, live, lse, delta, key_pointers, value_pointers, full + n < high, n, scale_log2,
                D, BLOCK_D, True, False, WIDE, PRECISION,
            )  # fmt: skip
    else:
        for at_key in range(low, high, BLOCK_N):
            place = at_key + n
            seen = place < high
            if Mask is not None:
                seen = seen & (tl.load(Mask + b * mask_b + place, mask=seen, other=0) != 0)
            visible = seen[None, :]
            if Ranges is not None:
                within = (place[None, :] >= row_low[:, None]) & (place[None, :] < row_high[:, None])
                visible = within if Mask is None else visible & within  # no range ends behind high
            dq = query_gradient_block(
                dq, q, grad, live, lse, delta, key_pointers, value_pointers, seen, visible, scale_log2,
                D, BLOCK_D, True, True, WIDE, PRECISION,
            )  # fmt: skip
            key_pointers += key_step
            value_pointers += value_step
    # The rows again, as at the end of forward_kernel: fewer registers in the loop.
    i = start + tl.minimum(high, 0) + tl.arange(0, BLOCK_M)
    dq_at = GradQ + row_b * dq_b + h * GROUP * dq_h + first * dq_m + row_offsets(i, dq_h, dq_m, GROUP)
    store_chunks(dq_at[:, None] + d[None, :], scale_rows(dq, scale), i < rows, None, D)


@triton.jit
def key_value_gradient_block(
    dk, dv, k, v, seen, query_pointers, grad_pointers, lse_pointers, delta_pointers, range_pointers, n, live, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    MASK_ROWS: tl.constexpr, RANGES: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds P^T dO and dS^T Q of one block of packed rows; live (BLOCK_M,): rows that exist (unread without MASK_ROWS),
    range_pointers: unread without RANGES. WIDE: k and v are pointers of keys, of which seen count."""
    if not WIDE:
        q = load_chunks(query_pointers, live, MASK_ROWS, D, BLOCK_D)
        grad = load_chunks(grad_pointers, live, MASK_ROWS, D, BLOCK_D)
    lse = tl.load(lse_pointers, mask=live, other=float("inf")) if MASK_ROWS else tl.load(lse_pointers)
    delta = tl.load(delta_pointers, mask=live, other=0.0) if MASK_ROWS else tl.load(delta_pointers)
    if WIDE:
        s = dot_read_rows(k, seen, query_pointers, live, D, BLOCK_D, PRECISION)  # (BLOCK_N, BLOCK_M)
        grad = load_chunks(grad_pointers, live, MASK_ROWS, D, BLOCK_D)
    else:
        s = dot_rows(k, q, PRECISION)
    p = tl.math.exp2(s * scale - lse[None, :])
    if RANGES:
        low = tl.load(range_pointers, mask=live, other=0) if MASK_ROWS else tl.load(range_pointers)
        high = tl.load(range_pointers + 1, mask=live, other=0) if MASK_ROWS else tl.load(range_pointers + 1)
        p = tl.where((n[:, None] >= low[None, :]) & (n[:, None] < high[None, :]), p, 0.0)
    dv = add_dot(dv, p, grad, PRECISION)
    if WIDE:
        dp = dot_read_rows(v, seen, grad_pointers, live, D, BLOCK_D, PRECISION)
        q = load_chunks(query_pointers, live, MASK_ROWS, D, BLOCK_D)
    else:
        dp = dot_rows(v, grad, PRECISION)
    return add_dot(dk, p * (dp - delta[None, :]), q, PRECISION), dv


@triton.jit
def key_value_gradient_kernel(
    Q, K, V, GradOut, Lse2, Delta, GradK, GradV, Lengths, Mask, Ranges, CuRows,
    scale, num_queries, num_keys, num_kv_heads,
    q_b, q_h, q_m, k_b, k_h, k_n, v_b, v_h, v_n, grad_b, grad_h, grad_m, dk_b, dk_h, dk_n, dv_b, dv_h, dv_n, mask_b,
    D: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (key blocks * B * Hkv,): dK and dV of a block of keys, summed over all rows of the context.

    A column of P belongs to only one key, so masked keys are left out once, at the end; only ranges,
    which differ by row, are masked in the loop. PACK heads of the GROUP are packed, the largest power of two that
    divides it, so that a tile ends on a query and pointers move by constant steps.
    """
    PACK: tl.constexpr = (GROUP & -GROUP) if (GROUP & -GROUP) < BLOCK_M else BLOCK_M
    STEP: tl.constexpr = BLOCK_M // PACK  # queries of a tile
    CHUNK: tl.constexpr = chunk_width(BLOCK_D, Q.dtype.element_ty.primitive_bitwidth)
    WIDE: tl.constexpr = is_wide(BLOCK_D, Q.dtype.element_ty.primitive_bitwidth)
    blocks = tl.cdiv(num_keys, BLOCK_N)
    b = (tl.program_id(0) // blocks // num_kv_heads).to(tl.int64)
    h = (tl.program_id(0) // blocks % num_kv_heads).to(tl.int64)
    first, rows = context_rows(CuRows, b, num_queries, PACK)
    row_b = b if CuRows is None else tl.full([], 0, tl.int64)
    d = tl.arange(0, CHUNK)
    n = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    span = key_span(Lengths, b, num_keys)
    seen = n < span
    k_at = K + b * k_b + h * k_h + n.to(tl.int64) * k_n
    key_pointers = k_at[:, None] + d[None, :]
    k = key_pointers if WIDE else load_chunks(key_pointers, seen, True, D, BLOCK_D)
    v_at = V + b * v_b + h * v_h + n.to(tl.int64) * v_n
    value_pointers = v_at[:, None] + d[None, :]
    v = value_pointers if WIDE else load_chunks(value_pointers, seen, True, D, BLOCK_D)
    scale_log2 = scale * LOG2E
    dk = zero_chunks(BLOCK_N, CHUNK, BLOCK_D)
    dv = zero_chunks(BLOCK_N, CHUNK, BLOCK_D)
    i = tl.arange(0, BLOCK_M)
    PEEL: tl.constexpr = is_peeled(Q.dtype.element_ty.primitive_bitwidth)
    full = rows // BLOCK_M * BLOCK_M if PEEL else rows
    query_step = tl.full([], STEP, tl.int64) * q_m
    grad_step = tl.full([], STEP, tl.int64) * grad_m
    for g in range(0, GROUP // PACK):
        head = h * GROUP + g * PACK + i % PACK
        query = (first + i // PACK).to(tl.int64)
        row = (row_b * num_kv_heads * GROUP + head) * num_queries + query
        query_pointers = Q + row_b * q_b + (head * q_h + query * q_m)[:, None] + d[None, :]
        grad_pointers = GradOut + row_b * grad_b + (head * grad_h + query * grad_m)[:, None] + d[None, :]
        lse_pointers = Lse2 + row
        delta_pointers = Delta + row
        range_pointers = lse_pointers
        if Ranges is not None:
            range_pointers = Ranges + (row_b * num_queries + query) * 2
        for start in range(0, full, BLOCK_M):
            dk, dv = key_value_gradient_block(
                dk, dv, k, v, seen, query_pointers, grad_pointers, lse_pointers, delta_pointers, range_pointers, n,
                start + i < rows, scale_log2, D, BLOCK_D, not PEEL, Ranges is not None, WIDE, PRECISION,
            )  # fmt: skip
            query_pointers += query_step
            grad_pointers += grad_step
            lse_pointers += STEP
            delta_pointers += STEP
            if Ranges is not None:
                range_pointers += STEP * 2
        if PEEL and full < rows:
            # The pointers again, not those of the loop: kept beside the next block's, they cost registers.
            query += full // PACK
            row += full // PACK
            query_pointers = Q + row_b * q_b + (head * q_h + query * q_m)[:, None] + d[None, :]
            grad_pointers = GradOut + row_b * grad_b + (head * grad_h + query * grad_m)[:, None] + d[None, :]
            if Ranges is not None:
                range_pointers = Ranges + (row_b * num_queries + query) * 2
            dk, dv = key_value_gradient_block(
                dk, dv, k, v, seen, query_pointers, grad_pointers, Lse2 + row, Delta + row, range_pointers, n,
                full + i < rows, scale_log2, D, BLOCK_D, True, Ranges is not None, WIDE, PRECISION,
            )  # fmt: skip

    # The keys again, in a form that the compiler cannot match with the first (span is never negative, which it does
    # not know), for the same reason.
    n = tl.program_id(0) % blocks * BLOCK_N + tl.minimum(span, 0) + tl.arange(0, BLOCK_N)
    seen = n < span
    if Mask is not None:
        seen = seen & (tl.load(Mask + b * mask_b + n, mask=seen, other=0) != 0)
    dk_at = GradK + b * dk_b + h * dk_h + n.to(tl.int64) * dk_n
    dv_at = GradV + b * dv_b + h * dv_h + n.to(tl.int64) * dv_n
    store_chunks(dk_at[:, None] + d[None, :], scale_rows(dk, scale), n < num_keys, seen, D)
    store_chunks(dv_at[:, None] + d[None, :], dv, n < num_keys, seen, D)
