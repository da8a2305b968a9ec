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

from .forward import LOG2E, key_span, load_tile
from .rows import context_rows


@triton.jit
def mass_kernel(
    Q, K, Lse, Mass, Lengths, Mask, Ranges, CuRows, scale, num_queries, num_keys, num_heads,
    q_b, q_h, q_m, k_b, k_h, k_n, mask_b,
    D: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (key blocks * B * H,). Lse (B, H, M) natural, Mass (B, H, N) fp32; keys that do not count get 0."""
    blocks = tl.cdiv(num_keys, BLOCK_N)
    b = (tl.program_id(0) // blocks // num_heads).to(tl.int64)
    head = (tl.program_id(0) // blocks % num_heads).to(tl.int64)
    first, rows = context_rows(CuRows, b, num_queries, 1)
    row_b = b if CuRows is None else tl.full([], 0, tl.int64)
    MASK_HEAD: tl.constexpr = D != BLOCK_D
    d = tl.arange(0, BLOCK_D)
    in_head = d < D
    n = tl.program_id(0) % blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    seen = n < key_span(Lengths, b, num_keys)
    if Mask is not None:
        seen = seen & (tl.load(Mask + b * mask_b + n, mask=seen, other=0) != 0)
    keys = K + b * k_b + (head // GROUP) * k_h + (n.to(tl.int64) * k_n)[:, None] + d[None, :]
    k = load_tile(keys, seen[:, None], in_head[None, :], True, MASK_HEAD)
    scale_log2 = scale * LOG2E
    mass = tl.zeros([BLOCK_N], tl.float32)
    for start in range(0, rows, BLOCK_M):
        i = start + tl.arange(0, BLOCK_M)
        live = i < rows
        query = (first + i).to(tl.int64)
        q_at = row_b * q_b + head * q_h + query * q_m
        q = load_tile(Q + q_at[None, :] + d[:, None], live[None, :], in_head[:, None], True, MASK_HEAD)
        lse = tl.load(Lse + (row_b * num_heads + head) * num_queries + query, mask=live, other=float("-inf"))
        lse = tl.where(lse == float("-inf"), float("inf"), lse * LOG2E)
        s = tl.dot(k, q, input_precision=PRECISION)
        p = tl.math.exp2(s * scale_log2 - lse[None, :])
        if Ranges is not None:
            at = Ranges + (row_b * num_queries + query) * 2
            row_low = tl.load(at, mask=live, other=0)
            row_high = tl.load(at + 1, mask=live, other=0)
            p = tl.where((n[:, None] >= row_low[None, :]) & (n[:, None] < row_high[None, :]), p, 0.0)
        mass += tl.sum(p, 1)
    to = Mass + (b * num_heads + head) * num_keys + n
    tl.store(to, tl.where(seen, mass, 0.0), mask=n < num_keys)
