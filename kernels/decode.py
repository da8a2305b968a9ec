"""Few rows, many keys: the keys of a context are split over programs, and their parts are put together here.

Decoding has a handful of rows per context: too few programs for the full memory bandwidth. Each split reads its own
share of the keys (Dao et al. 2023, "Flash-Decoding"). The parts are combined in a fixed order, without atomics, so the
same input gives the same bits.
"""

# Inside a jit function everything is a Triton value.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false, reportCallIssue=false

import triton
import triton.language as tl

from .forward import LN2, LOWEST


@triton.jit
def combine_kernel(
    Parts, PartLse, Out, Lse, num_queries, num_heads, num_rows, num_splits, out_b, out_h, out_m,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Grid (row blocks,). Parts (splits, num_rows, D), PartLse (splits, num_rows) in log2 -> Out, Lse (num_rows,).

    out = sum_s 2^(lse_s - lse) out_s, where 2^lse = sum_s 2^lse_s; a split without keys has lse_s = -inf, weight 0.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    live = row < num_rows
    d = tl.arange(0, BLOCK_D)
    there = live[:, None] & (d < D)[None, :]
    m = tl.full([BLOCK_M], LOWEST, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    at = row
    for _ in range(0, num_splits):
        lse = tl.load(PartLse + at, mask=live, other=float("-inf"))
        part = tl.load(Parts + at[:, None] * D + d[None, :], mask=there, other=0.0)
        m_new = tl.maximum(m, lse)
        alpha = tl.math.exp2(m - m_new)
        weight = tl.math.exp2(lse - m_new)
        acc = acc * alpha[:, None] + part * weight[:, None]
        total = total * alpha + weight
        m = m_new
        at += num_rows
    empty = total == 0.0
    safe = tl.where(empty, 1.0, total)
    query = row % num_queries
    head = (row // num_queries) % num_heads
    b = row // (num_queries * num_heads)
    to = (b * out_b + head * out_h + query * out_m)[:, None] + d[None, :]
    tl.store(Out + to, (acc / safe[:, None]).to(Out.dtype.element_ty), mask=there)
    tl.store(Lse + row, tl.where(empty, float("-inf"), m + tl.math.log2(safe)) * LN2, mask=live)
