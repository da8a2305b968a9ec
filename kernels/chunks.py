"""Tiles whose head width is cut into chunks: a tuple of tensors (rows, CHUNK) instead of one (rows, BLOCK_D).

A dot product in fp32 is three of TF32, of operands split in two; of a whole wide tile both parts do not fit in
registers. 16-bit tiles, and those up to 64 wide, are one chunk.
"""

# Inside a jit function everything is a Triton value.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from .forward import load_tile


@triton.constexpr_function
def chunk_width(block_d: int, bits: int) -> int:
    """How wide a chunk is; bits: of an element."""
    return block_d if bits <= 16 else min(block_d, 64)


@triton.constexpr_function
def is_peeled(bits: int) -> bool:
    """Whether the last block of a loop stands behind it, the only one with masks. In fp32 the parts of what loop and
    last block share would be kept in registers for both."""
    return bits <= 16


@triton.jit
def load_chunks(pointers, rows_there, MASK_ROWS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """BLOCK_D / CHUNK tiles (rows, CHUNK), zero beyond D; pointers (rows, CHUNK): of the first."""
    CHUNK: tl.constexpr = pointers.shape[1]
    d = tl.arange(0, CHUNK)
    tiles = (load_tile(pointers, rows_there[:, None], (d < D)[None, :], MASK_ROWS, D < CHUNK),)
    for at in tl.static_range(CHUNK, BLOCK_D, CHUNK):
        in_head = (d + at < D)[None, :]
        tiles = tiles + (load_tile(pointers + at, rows_there[:, None], in_head, MASK_ROWS, D < at + CHUNK),)
    return tiles


@triton.jit
def zero_chunks(ROWS: tl.constexpr, CHUNK: tl.constexpr, BLOCK_D: tl.constexpr):
    """fp32 zeros in the form of load_chunks."""
    tiles = (tl.zeros([ROWS, CHUNK], tl.float32),)
    for _ in tl.static_range(CHUNK, BLOCK_D, CHUNK):
        tiles = tiles + (tl.zeros([ROWS, CHUNK], tl.float32),)
    return tiles


@triton.jit
def dot_rows(a, b, PRECISION: tl.constexpr):
    """a b^T of two chunked tiles (n, D), (m, D) -> (n, m)."""
    s = tl.dot(a[0], tl.trans(b[0]), input_precision=PRECISION)
    for c in tl.static_range(1, len(a)):
        s = tl.dot(a[c], tl.trans(b[c]), s, input_precision=PRECISION)
    return s


@triton.jit
def add_dot(total, weights, b, PRECISION: tl.constexpr):
    """total + weights b, of chunked total (n, D) and b (m, D); weights (n, m)."""
    w = weights.to(b[0].dtype)
    sums = (tl.dot(w, b[0], total[0], input_precision=PRECISION),)
    for c in tl.static_range(1, len(b)):
        sums = sums + (tl.dot(w, b[c], total[c], input_precision=PRECISION),)
    return sums


@triton.jit
def store_chunks(pointers, tiles, rows_there, rows_count, factor, D: tl.constexpr):
    """Stores factor times chunked tiles, up to D, and 0 where rows_count is False; pointers: of the first chunk."""
    CHUNK: tl.constexpr = pointers.shape[1]
    d = tl.arange(0, CHUNK)
    for c in tl.static_range(len(tiles)):
        to = rows_there[:, None] & (d + c * CHUNK < D)[None, :]
        tile = tl.where(rows_count[:, None], tiles[c] * factor, 0.0)
        tl.store(pointers + c * CHUNK, tile.to(pointers.dtype.element_ty), mask=to)
