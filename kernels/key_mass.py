"""What each key was given: the column sums of the attention weights, without the weights.

A second pass with the final log-sum-exp: mass[n] = sum over rows m of exp(scale q_m k_n - lse_m). One program per
block of keys and query head goes over all rows, so nothing is added atomically.
"""

# Inside a jit function everything is a Triton value, and pointers may be None.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalSubscript=false

import triton
import triton.language as tl

from .forward import LOG2E, key_span
from .head_chunks import chunk_width, dot_rows, is_peeled, load_chunks
from .row_tiles import context_rows


@triton.jit
def mass_block(
    mass, k, query_pointers, lse_pointers, range_pointers, n, live, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, MASK_ROWS: tl.constexpr, RANGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds the weights of one block of rows; live (BLOCK_M,): rows that exist (unread without MASK_ROWS),
    range_pointers: unread without RANGES."""
    q = load_chunks(query_pointers, live, MASK_ROWS, D, BLOCK_D)
    lse = tl.load(lse_pointers, mask=live, other=float("-inf")) if MASK_ROWS else tl.load(lse_pointers)
    lse = tl.where(lse == float("-inf"), float("inf"), lse * LOG2E)
    s = dot_rows(k, q, PRECISION)  # (BLOCK_N, BLOCK_M)
    p = tl.math.exp2(s * scale - lse[None, :])
    if RANGES:
        low = tl.load(range_pointers, mask=live, other=0) if MASK_ROWS else tl.load(range_pointers)
        high = tl.load(range_pointers + 1, mask=live, other=0) if MASK_ROWS else tl.load(range_pointers + 1)
        p = tl.where((n[:, None] >= low[None, :]) & (n[:, None] < high[None, :]), p, 0.0)
    return mass + tl.sum(p, 1)


@triton.jit
def mass_kernel(
    Q, K, Lse, Mass, Lengths, Mask, Ranges, CuRows, scale, num_queries, num_keys, num_heads,
    q_b, q_h, q_m, k_b, k_h, k_n, mask_b,
    D: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (key blocks * B * H,). Lse (B, H, M) natural, Mass (B, H, N) fp32; keys that do not count get 0."""
    CHUNK: tl.constexpr = chunk_width(BLOCK_D, Q.dtype.element_ty.primitive_bitwidth)
    blocks = tl.cdiv(num_keys, BLOCK_N)
    b = (tl.program_id(0) // blocks // num_heads).to(tl.int64)
    head = (tl.program_id(0) // blocks % num_heads).to(tl.int64)
    first, rows = context_rows(CuRows, b, num_queries, 1)
    row_b = b if CuRows is None else tl.full([], 0, tl.int64)
    d = tl.arange(0, CHUNK)
    n = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    seen = n < key_span(Lengths, b, num_keys)
    k_at = K + b * k_b + (head // GROUP) * k_h + n.to(tl.int64) * k_n
    k = load_chunks(k_at[:, None] + d[None, :], seen, True, D, BLOCK_D)
    scale_log2 = scale * LOG2E
    mass = tl.zeros([BLOCK_N], tl.float32)
    i = tl.arange(0, BLOCK_M)
    PEEL: tl.constexpr = is_peeled(Q.dtype.element_ty.primitive_bitwidth)
    full = rows // BLOCK_M * BLOCK_M if PEEL else rows
    query_step = tl.full([], BLOCK_M, tl.int64) * q_m
    queries = Q + row_b * q_b + head * q_h
    query = (first + i).to(tl.int64)
    query_pointers = queries + (query * q_m)[:, None] + d[None, :]
    lse_pointers = Lse + (row_b * num_heads + head) * num_queries + query
    range_pointers = lse_pointers
    if Ranges is not None:
        range_pointers = Ranges + (row_b * num_queries + query) * 2
    for start in range(0, full, BLOCK_M):
        mass = mass_block(
            mass, k, query_pointers, lse_pointers, range_pointers, n, start + i < rows, scale_log2,
            D, BLOCK_D, not PEEL, Ranges is not None, PRECISION,
        )  # fmt: skip
        query_pointers += query_step
        lse_pointers += BLOCK_M
        if Ranges is not None:
            range_pointers += BLOCK_M * 2
    if PEEL and full < rows:
        mass = mass_block(
            mass, k, query_pointers, lse_pointers, range_pointers, n, full + i < rows, scale_log2,
            D, BLOCK_D, True, Ranges is not None, PRECISION,
        )  # fmt: skip
    if Mask is not None:
        seen = seen & (tl.load(Mask + b * mask_b + n, mask=seen, other=0) != 0)
    to = Mass + (b * num_heads + head) * num_keys + n
    tl.store(to, tl.where(seen, mass, 0.0), mask=n < num_keys)
