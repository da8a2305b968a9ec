"""Which rows a program works on: the queries of a context times the heads that share its keys, packed into tiles.

    packed row i of (context b, key head h)   ->   query i // GROUP, query head h * GROUP + i % GROUP

so that the keys of one head are read once for all query heads (GQA) and all text rows of the context.
"""

# Inside a jit function everything is a Triton value, and pointers may be None.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false

import triton
import triton.language as tl


@triton.jit
def context_rows(CuRows, b, num_queries, GROUP: tl.constexpr):
    """(first query, packed rows) of context b; CuRows None: every context has num_queries queries."""
    if CuRows is None:
        first = tl.full([], 0, tl.int64)
        rows = num_queries * GROUP
    else:
        first = tl.load(CuRows + b).to(tl.int64)
        rows = (tl.load(CuRows + b + 1) - tl.load(CuRows + b)) * GROUP
    return first, rows


@triton.jit
def row_offsets(i, head_stride, query_stride, GROUP: tl.constexpr):
    """int64 offsets of packed rows i from their context's first row of the first head of the group."""
    return (i // GROUP).to(tl.int64) * query_stride + (i % GROUP).to(tl.int64) * head_stride


@triton.jit
def row_tile(
    pid, CuRows, num_queries, num_contexts, num_kv_heads,
    GROUP: tl.constexpr, BLOCK_M: tl.constexpr, CONTEXTS: tl.constexpr,
):  # fmt: skip
    """Program number -> (context b, key head h, first query of b, packed rows of b, first packed row of the tile).

    Ragged: tiles are counted context after context, and a program beyond the last tile gets no rows. CONTEXTS is a
    power of two of at least num_contexts (ragged only).
    """
    if CuRows is None:
        tiles = tl.cdiv(num_queries * GROUP, BLOCK_M)
        h = (pid // tiles) % num_kv_heads
        b = pid // (tiles * num_kv_heads)
        first = tl.full([], 0, tl.int64)
        rows = num_queries * GROUP
        start = (pid % tiles) * BLOCK_M
    else:
        h = pid % num_kv_heads
        tile = pid // num_kv_heads
        c = tl.arange(0, CONTEXTS)
        there = c < num_contexts
        counts = tl.load(CuRows + c + 1, mask=there, other=0) - tl.load(CuRows + c, mask=there, other=0)
        tiles = tl.cdiv(counts * GROUP, BLOCK_M)
        before = tl.cumsum(tiles, 0) - tiles
        found = tl.sum(tl.where(before + tiles <= tile, 1, 0), 0)
        inside = found < num_contexts
        b = tl.where(inside, found, 0)
        start = (tile - tl.sum(tl.where(c < b, tiles, 0), 0)) * BLOCK_M
        first = tl.load(CuRows + b).to(tl.int64)
        rows = tl.where(inside, (tl.load(CuRows + b + 1) - tl.load(CuRows + b)) * GROUP, 0)
    return b, h, first, rows, start


def row_grid(num_queries: int, num_contexts: int, num_kv_heads: int, group: int, block_m: int, ragged: bool) -> int:
    """How many programs `row_tile` needs; the last tile of a ragged context may be partly empty."""
    tiles = -(-num_queries * group // block_m)
    return (tiles + num_contexts if ragged else tiles * num_contexts) * num_kv_heads
