"""Backward of flash cross-attention: dQ by row tiles, dK and dV by key tiles, nothing added atomically.

With P = exp(S - lse), S = scale Q K^T, and the gradients dO of the output and dlse of the log-sum-exp:

    delta = rowsum(dO * O) - dlse        dS = P * (dO V^T - delta)
    dV = P^T dO      dQ = scale dS K      dK = scale dS^T Q

(Dao et al. 2022, arXiv:2205.14135, algorithm 4; dlse enters because d lse / d S = P.) The same bits on every run.
"""

# Inside a jit function everything is a Triton value, and pointers may be None.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalSubscript=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from .forward import LOG2E, key_span, load_tile
from .rows import context_rows, row_tile


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
    dq, q, grad, lse, delta, key_pointers, value_pointers, there, allowed, in_head, scale,
    MASK_KEYS: tl.constexpr, MASK_SCORES: tl.constexpr, MASK_HEAD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds dS K of one block of keys; the arguments are those of forward.attend_block."""
    k = load_tile(key_pointers, there[None, :], in_head[:, None], MASK_KEYS, MASK_HEAD)  # (D, BLOCK_N)
    v = load_tile(value_pointers, there[None, :], in_head[:, None], MASK_KEYS, MASK_HEAD)  # (D, BLOCK_N)
    s = tl.dot(q, k, input_precision=PRECISION)
    p = tl.math.exp2(s * scale - lse[:, None])
    if MASK_SCORES:
        p = tl.where(allowed, p, 0.0)
    elif MASK_KEYS:
        p = tl.where(there[None, :], p, 0.0)
    dp = tl.dot(grad, v, input_precision=PRECISION)
    ds = p * (dp - delta[:, None])
    return tl.dot(ds.to(k.dtype), tl.trans(k), dq, input_precision=PRECISION)


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
    MASK_HEAD: tl.constexpr = D != BLOCK_D
    i = start + tl.arange(0, BLOCK_M)
    live = i < rows
    query = (first + i // GROUP).to(tl.int64)
    head = (h * GROUP + i % GROUP).to(tl.int64)
    row_b = b.to(tl.int64) if CuRows is None else tl.full([], 0, tl.int64)
    b = b.to(tl.int64)
    h = h.to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    in_head = d < D
    q_at = (row_b * q_b + head * q_h + query * q_m)[:, None] + d[None, :]
    grad_at = (row_b * grad_b + head * grad_h + query * grad_m)[:, None] + d[None, :]
    q = load_tile(Q + q_at, live[:, None], in_head[None, :], True, MASK_HEAD)
    grad = load_tile(GradOut + grad_at, live[:, None], in_head[None, :], True, MASK_HEAD)
    row = (row_b * num_kv_heads * GROUP + head) * num_queries + query
    lse = tl.load(Lse2 + row, mask=live, other=float("inf"))
    delta = tl.load(Delta + row, mask=live, other=0.0)

    low = 0
    high = key_span(Lengths, b, num_keys)
    if Ranges is not None:
        at = Ranges + (row_b * num_queries + query) * 2
        row_low = tl.load(at, mask=live, other=num_keys)
        row_high = tl.minimum(tl.load(at + 1, mask=live, other=0), high)
        low = tl.minimum(tl.maximum(tl.min(row_low, 0), 0), high)
        high = tl.maximum(tl.max(row_high, 0), low)

    n = tl.arange(0, BLOCK_N)
    scale_log2 = scale * LOG2E
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    key_pointers = K + b * k_b + h * k_h + (low + n)[None, :].to(tl.int64) * k_n + d[:, None]
    value_pointers = V + b * v_b + h * v_h + (low + n)[None, :].to(tl.int64) * v_n + d[:, None]
    if Mask is None and Ranges is None:
        full = low + (high - low) // BLOCK_N * BLOCK_N
        for _ in range(low, full, BLOCK_N):
            dq = query_gradient_block(
                dq, q, grad, lse, delta, key_pointers, value_pointers, n, n, in_head, scale_log2,
                False, False, MASK_HEAD, PRECISION,
            )  # fmt: skip
            key_pointers += key_step
            value_pointers += value_step
        if full < high:
            dq = query_gradient_block(
                dq, q, grad, lse, delta, key_pointers, value_pointers, full + n < high, n, in_head, scale_log2,
                True, False, MASK_HEAD, PRECISION,
            )  # fmt: skip
    else:
        for at_key in range(low, high, BLOCK_N):
            place = at_key + n
            seen = place < high
            if Mask is not None:
                seen = seen & (tl.load(Mask + b * mask_b + place, mask=seen, other=0) != 0)
            visible = seen[None, :]
            if Ranges is not None:
                visible = visible & (place[None, :] >= row_low[:, None]) & (place[None, :] < row_high[:, None])
            dq = query_gradient_block(
                dq, q, grad, lse, delta, key_pointers, value_pointers, seen, visible, in_head, scale_log2,
                True, True, MASK_HEAD, PRECISION,
            )  # fmt: skip
            key_pointers += key_step
            value_pointers += value_step
    dq_at = (row_b * dq_b + head * dq_h + query * dq_m)[:, None] + d[None, :]
    tl.store(GradQ + dq_at, (dq * scale).to(GradQ.dtype.element_ty), mask=live[:, None] & in_head[None, :])


@triton.jit
def key_value_gradient_kernel(
    Q, K, V, GradOut, Lse2, Delta, GradK, GradV, Lengths, Mask, Ranges, CuRows,
    scale, num_queries, num_keys, num_kv_heads,
    q_b, q_h, q_m, k_b, k_h, k_n, v_b, v_h, v_n, grad_b, grad_h, grad_m, dk_b, dk_h, dk_n, dv_b, dv_h, dv_n, mask_b,
    D: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (key blocks * B * Hkv,): dK and dV of a block of keys, summed over all packed rows of the context.

    A column of P belongs to one key alone, so keys that do not count are left out once, at the end; only ranges,
    which differ by row, are masked in the loop.
    """
    blocks = tl.cdiv(num_keys, BLOCK_N)
    b = (tl.program_id(0) // blocks // num_kv_heads).to(tl.int64)
    h = (tl.program_id(0) // blocks % num_kv_heads).to(tl.int64)
    first, rows = context_rows(CuRows, b, num_queries, GROUP)
    row_b = b if CuRows is None else tl.full([], 0, tl.int64)
    MASK_HEAD: tl.constexpr = D != BLOCK_D
    d = tl.arange(0, BLOCK_D)
    in_head = d < D
    n = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    seen = n < key_span(Lengths, b, num_keys)
    if Mask is not None:
        seen = seen & (tl.load(Mask + b * mask_b + n, mask=seen, other=0) != 0)
    place = n.to(tl.int64)
    k = load_tile(
        K + b * k_b + h * k_h + (place * k_n)[:, None] + d[None, :], seen[:, None], in_head[None, :], True, MASK_HEAD
    )
    v = load_tile(
        V + b * v_b + h * v_h + (place * v_n)[:, None] + d[None, :], seen[:, None], in_head[None, :], True, MASK_HEAD
    )
    scale_log2 = scale * LOG2E
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    queries = Q + row_b * q_b + h * GROUP * q_h
    grads = GradOut + row_b * grad_b + h * GROUP * grad_h
    row_base = (row_b * num_kv_heads + h) * GROUP * num_queries
    for start in range(0, rows, BLOCK_M):
        i = start + tl.arange(0, BLOCK_M)
        live = i < rows
        query = (first + i // GROUP).to(tl.int64)
        head = (i % GROUP).to(tl.int64)
        row = row_base + head * num_queries + query
        q = load_tile(
            queries + (head * q_h + query * q_m)[None, :] + d[:, None],
            live[None, :],
            in_head[:, None],
            True,
            MASK_HEAD,
        )  # (D, BLOCK_M)
        grad = load_tile(
            grads + (head * grad_h + query * grad_m)[:, None] + d[None, :],
            live[:, None], in_head[None, :], True, MASK_HEAD,
        )  # fmt: skip
        lse = tl.load(Lse2 + row, mask=live, other=float("inf"))
        delta = tl.load(Delta + row, mask=live, other=0.0)
        s = tl.dot(k, q, input_precision=PRECISION)  # (BLOCK_N, BLOCK_M)
        p = tl.math.exp2(s * scale_log2 - lse[None, :])
        if Ranges is not None:
            at = Ranges + (row_b * num_queries + query) * 2
            row_low = tl.load(at, mask=live, other=0)
            row_high = tl.load(at + 1, mask=live, other=0)
            p = tl.where((n[:, None] >= row_low[None, :]) & (n[:, None] < row_high[None, :]), p, 0.0)
        dv = tl.dot(p.to(grad.dtype), grad, dv, input_precision=PRECISION)
        dp = tl.dot(v, tl.trans(grad), input_precision=PRECISION)
        ds = p * (dp - delta[None, :])
        dk = tl.dot(ds.to(q.dtype), tl.trans(q), dk, input_precision=PRECISION)
    dk = tl.where(seen[:, None], dk * scale, 0.0)
    dv = tl.where(seen[:, None], dv, 0.0)
    to = (n < num_keys)[:, None] & in_head[None, :]
    dk_at = b * dk_b + h * dk_h + place * dk_n
    dv_at = b * dv_b + h * dv_h + place * dv_n
    tl.store(GradK + dk_at[:, None] + d[None, :], dk.to(GradK.dtype.element_ty), mask=to)
    tl.store(GradV + dv_at[:, None] + d[None, :], dv.to(GradV.dtype.element_ty), mask=to)
