"""Forward of flash cross-attention: one pass over the keys of a context for all rows that read it.

Legend: B contexts · H query heads · Hkv key heads, GROUP = H / Hkv · M queries · N keys · D head width.
The keys of a program are cut into blocks; the running maximum m, the running sum total and the unnormalised output acc
are rescaled from block to block (Milakov & Gimelshein 2018, arXiv:1805.02867; Dao 2023, arXiv:2307.08691).
Blocks inside the key length are read without masks; the last one is peeled off and masked. A key mask, row ranges or
fp32 mask every block. With few rows the keys are split over programs, see decode.py.
"""

# Inside a jit function everything is a Triton value, and pointers may be None.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalSubscript=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from .head_chunks import (
    add_dot,
    chunk_width,
    dot_columns,
    dot_read_rows,
    is_peeled,
    is_wide,
    load_chunks,
    load_columns,
    scale_rows,
    store_chunks,
    zero_chunks,
)
from .row_tiles import row_offsets, row_tile

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
# Below every finite score, and finite itself: m - m is 0 even where no key was seen yet, never NaN.
LOWEST: tl.constexpr = tl.constexpr(-1.7e38)


@triton.jit
def attend_block(
    acc, total, m, q, live, key_pointers, value_pointers, there, allowed, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr,
    MASK_KEYS: tl.constexpr, MASK_SCORES: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One block of keys: scores, new maximum, rescale, add. there (BLOCK_N,): keys that exist; allowed (BLOCK_M or 1,
    BLOCK_N): keys that a row may see (both unread without their flag); scale: of the scores, in units of log2.

    WIDE: q is pointers of rows, of which live exist; otherwise chunks, and live is unread."""
    if WIDE:
        s = dot_read_rows(q, live, tl.trans(key_pointers), there, D, BLOCK_D, PRECISION)  # (BLOCK_M, BLOCK_N)
    else:
        s = dot_columns(q, load_columns(key_pointers, there, MASK_KEYS, D, BLOCK_D), PRECISION)
    if MASK_SCORES:
        s = tl.where(allowed, s, float("-inf"))
    elif MASK_KEYS:
        s = tl.where(there[None, :], s, float("-inf"))
    m_new = tl.maximum(m, tl.max(s, 1) * scale)
    p = tl.math.exp2(s * scale - m_new[:, None])
    alpha = tl.math.exp2(m - m_new)
    total = total * alpha + tl.sum(p, 1)
    v = load_chunks(value_pointers, there, MASK_KEYS, D, BLOCK_D)
    return add_dot(scale_rows(acc, alpha[:, None]), p, v, PRECISION), total, m_new


@triton.jit
def key_span(Lengths, b, num_keys):
    """How many keys of context b are real; never more than there are."""
    n = num_keys
    if Lengths is not None:
        n = tl.minimum(tl.maximum(tl.load(Lengths + b), 0), num_keys)
    return n


@triton.jit
def forward_kernel(
    Q, K, V, Out, Lse, Lengths, Mask, Ranges, CuRows,
    scale, num_queries, num_keys, num_contexts, num_kv_heads, num_rows,
    q_b, q_h, q_m, k_b, k_h, k_n, v_b, v_h, v_n, out_b, out_h, out_m, mask_b, key_step, value_step,
    D: tl.constexpr, GROUP: tl.constexpr, CONTEXTS: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SPLIT: tl.constexpr, LEAN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (row tiles * Hkv, splits). num_rows = H * M of all contexts, the rows of one split's partial results.

    SPLIT: Out (splits, num_rows, D) and Lse (splits, num_rows) are fp32 partials, the latter in units of log2.
    Otherwise Out is (B, H, M, D) by its strides and Lse (num_rows,) the natural logarithm. LEAN: see tuning.Tile.
    """
    b, h, first, rows, start = row_tile(
        tl.program_id(0), CuRows, num_queries, num_contexts, num_kv_heads, GROUP, BLOCK_M, CONTEXTS
    )
    CHUNK: tl.constexpr = chunk_width(BLOCK_D, Q.dtype.element_ty.primitive_bitwidth)
    WIDE: tl.constexpr = is_wide(BLOCK_D, Q.dtype.element_ty.primitive_bitwidth)
    i = start + tl.arange(0, BLOCK_M)
    live = i < rows
    row_b = b.to(tl.int64) if CuRows is None else tl.full([], 0, tl.int64)
    b = b.to(tl.int64)
    h = h.to(tl.int64)
    d = tl.arange(0, CHUNK)
    q_at = Q + row_b * q_b + h * GROUP * q_h + first * q_m + row_offsets(i, q_h, q_m, GROUP)
    query_pointers = q_at[:, None] + d[None, :]
    q = query_pointers if WIDE else load_chunks(query_pointers, live, True, D, BLOCK_D)

    low = 0
    high = key_span(Lengths, b, num_keys)
    if Ranges is not None:
        at = Ranges + (row_b * num_queries + first) * 2 + i // GROUP * 2
        row_low = tl.load(at, mask=live, other=num_keys)
        row_high = tl.minimum(tl.load(at + 1, mask=live, other=0), high)
        low = tl.minimum(tl.maximum(tl.min(row_low, 0), 0), high)
        high = tl.maximum(tl.max(row_high, 0), low)
    if SPLIT:
        share = tl.cdiv(tl.cdiv(high - low, BLOCK_N), tl.num_programs(1)) * BLOCK_N
        low = tl.minimum(low + tl.program_id(1) * share, high)
        high = tl.minimum(low + share, high)

    n = tl.arange(0, BLOCK_N)
    scale = scale * LOG2E
    m = tl.full([BLOCK_M], LOWEST, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = zero_chunks(BLOCK_M, CHUNK, BLOCK_D)
    key_pointers = K + b * k_b + h * k_h + (low + n)[None, :].to(tl.int64) * k_n + d[:, None]
    value_pointers = V + b * v_b + h * v_h + (low + n)[:, None].to(tl.int64) * v_n + d[None, :]
    if Mask is None and Ranges is None and is_peeled(Q.dtype.element_ty.primitive_bitwidth):
        full = low + (high - low) // BLOCK_N * BLOCK_N
        for _ in range(low, full, BLOCK_N):
            acc, total, m = attend_block(
                acc, total, m, q, live, key_pointers, value_pointers, n, n, scale,
                D, BLOCK_D, False, False, WIDE, PRECISION,
            )  # fmt: skip
            key_pointers += key_step
            value_pointers += value_step
        # The last, masked block. The loop of one turn takes fewer registers than the branch where MMA results are
        # registers of their own (sm_80), and one instruction more in the main loop where they are not (sm_90).
        if LEAN:
            for _ in range(full, high, BLOCK_N):
                acc, total, m = attend_block(
                    acc, total, m, q, live, key_pointers, value_pointers, full + n < high, n, scale,
                    D, BLOCK_D, True, False, WIDE, PRECISION,
                )  # fmt: skip
        elif full < high:
            acc, total, m = attend_block(
                acc, total, m, q, live, key_pointers, value_pointers, full + n < high, n, scale,
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
            acc, total, m = attend_block(
                acc, total, m, q, live, key_pointers, value_pointers, seen, visible, scale,
                D, BLOCK_D, True, True, WIDE, PRECISION,
            )  # fmt: skip
            key_pointers += key_step
            value_pointers += value_step

    if LEAN:
        # The rows again, in a form that the compiler cannot match with the first (high is never negative, which it
        # does not know): kept over the loop, their offsets cost the registers that made it spill.
        i = start + tl.minimum(high, 0) + tl.arange(0, BLOCK_M)
        live = i < rows
    empty = total == 0.0
    safe = tl.where(empty, 1.0, total)  # made safe first: both arms of a where are computed
    acc = scale_rows(acc, 1.0 / safe[:, None])
    lse = tl.where(empty, float("-inf"), m + tl.math.log2(safe))
    row = (row_b * num_kv_heads + h) * GROUP * num_queries + first
    if SPLIT:
        row += tl.program_id(1).to(tl.int64) * num_rows
        out_at = Out + row * D + row_offsets(i, num_queries * D, D, GROUP)
        store_chunks(out_at[:, None] + d[None, :], acc, live, None, D)
        tl.store(Lse + row + row_offsets(i, num_queries, 1, GROUP), lse, mask=live)
    else:
        out_at = Out + row_b * out_b + h * GROUP * out_h + first * out_m + row_offsets(i, out_h, out_m, GROUP)
        store_chunks(out_at[:, None] + d[None, :], acc, live, None, D)
        tl.store(Lse + row + row_offsets(i, num_queries, 1, GROUP), lse * LN2, mask=live)
