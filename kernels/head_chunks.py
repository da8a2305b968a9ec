"""Tiles whose head width is cut into chunks: a tuple of tensors (rows, CHUNK) instead of one (rows, BLOCK_D).

A dot product in fp32 is three of TF32, of operands split in two; of a whole wide tile both parts do not fit in
registers. 16-bit tiles, and those up to 64 wide, are one chunk. Of fp32 heads wider than 128 not even the chunks of
what stays the same in a loop fit: they are read again for every block, from the cache (is_wide, dot_read_rows).
"""

# Inside a jit function everything is a Triton value.
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl


@triton.constexpr_function
def chunk_width(block_d: int, bits: int) -> int:
    """How wide a chunk is; bits: of an element."""
    return block_d if bits <= 16 else min(block_d, 64)


@triton.constexpr_function
def is_peeled(bits: int) -> bool:
    """Whether the last block of a loop is peeled off: the only one with masks. In fp32 the parts of what loop and
    last block share would be kept in registers for both."""
    return bits <= 16


@triton.constexpr_function
def is_wide(block_d: int, bits: int) -> bool:
    """Whether not even the chunks of what stays the same in a loop fit in registers: all is read chunk by chunk."""
    return bits > 16 and block_d > 128


@triton.jit
def load_tile(pointers, rows_there, columns_there, MASK_ROWS: tl.constexpr, MASK_COLUMNS: tl.constexpr):
    """A tile, zero where a mask that is asked for is False: garbage times 0 would be NaN if it is NaN."""
    if MASK_ROWS:
        if MASK_COLUMNS:
            return tl.load(pointers, mask=rows_there & columns_there, other=0.0)
        return tl.load(pointers, mask=rows_there, other=0.0)
    if MASK_COLUMNS:
        return tl.load(pointers, mask=columns_there, other=0.0)
    return tl.load(pointers)


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
def load_columns(pointers, columns_there, MASK_COLUMNS: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """As load_chunks, for transposed tiles: (CHUNK, columns)."""
    CHUNK: tl.constexpr = pointers.shape[0]
    d = tl.arange(0, CHUNK)
    tiles = (load_tile(pointers, (d < D)[:, None], columns_there[None, :], D < CHUNK, MASK_COLUMNS),)
    for at in tl.static_range(CHUNK, BLOCK_D, CHUNK):
        in_head = (d + at < D)[:, None]
        tiles = tiles + (load_tile(pointers + at, in_head, columns_there[None, :], D < at + CHUNK, MASK_COLUMNS),)
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
def dot_columns(a, b, PRECISION: tl.constexpr):
    """a b of chunked tiles a (n, D), b (D, m) -> (n, m)."""
    s = tl.dot(a[0], b[0], input_precision=PRECISION)
    for c in tl.static_range(1, len(a)):
        s = tl.dot(a[c], b[c], s, input_precision=PRECISION)
    return s


@triton.jit
def dot_read_rows(
    a_pointers, a_there, b_pointers, b_there, D: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr
):
    """dot_rows of tiles that are read when needed, one chunk of each at a time; pointers: of the first chunks."""
    d = tl.arange(0, a_pointers.shape[1])
    s = tl.zeros([a_pointers.shape[0], b_pointers.shape[0]], tl.float32)
    for at in range(0, BLOCK_D, a_pointers.shape[1]):  # not unrolled, or all would be read at once
        in_head = (d + at < D)[None, :]
        a = tl.load(a_pointers + at, mask=a_there[:, None] & in_head, other=0.0)
        b = tl.load(b_pointers + at, mask=b_there[:, None] & in_head, other=0.0)
        s = tl.dot(a, tl.trans(b), s, input_precision=PRECISION)
    return s


@triton.jit
def scale_rows(tiles, factors):
    """Chunked tiles (n, D) times a factor per row; factors (n, 1), or one number."""
    scaled = (tiles[0] * factors,)
    for c in tl.static_range(1, len(tiles)):
        scaled = scaled + (tiles[c] * factors,)
    return scaled


@triton.jit
def add_dot(total, weights, b, PRECISION: tl.constexpr):
    """total + weights b, of chunked total (n, D) and b (m, D); weights (n, m)."""
    w = weights.to(b[0].dtype)
    sums = (tl.dot(w, b[0], total[0], input_precision=PRECISION),)
    for c in tl.static_range(1, len(b)):
        sums = sums + (tl.dot(w, b[c], total[c], input_precision=PRECISION),)
    return sums


@triton.jit
def store_chunks(pointers, tiles, rows_there, rows_count, D: tl.constexpr):
    """Stores chunked tiles up to D, 0 where rows_count is False (None: nowhere); pointers: of the first chunk."""
    CHUNK: tl.constexpr = pointers.shape[1]
    d = tl.arange(0, CHUNK)
    for c in tl.static_range(len(tiles)):
        to = rows_there[:, None] & (d + c * CHUNK < D)[None, :]
        tile = tiles[c]
        if rows_count is not None:
            tile = tl.where(rows_count[:, None], tile, 0.0)
        tl.store(pointers + c * CHUNK, tile.to(pointers.dtype.element_ty), mask=to)
