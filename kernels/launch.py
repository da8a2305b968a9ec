"""From tensors to launches: allocates the outputs, picks the tiles, passes the strides.

B contexts · H query heads · Hkv key heads · M queries · N keys · D head width. Arguments were checked before.
"""

# Kernels are called by subscript, and their options are the tile's.
# pyright: reportIndexIssue=false, reportCallIssue=false, reportArgumentType=false

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from . import tuning
from .backward import delta_kernel, key_value_gradient_kernel, query_gradient_kernel
from .decode import combine_kernel
from .forward import forward_kernel
from .interpreter import IS_INTERPRETED
from .key_mass import mass_kernel
from .reference import empty_states
from .row_tiles import row_grid

if isinstance(forward_kernel, triton.JITFunction) == IS_INTERPRETED:
    raise RuntimeError(
        "TRITON_INTERPRET was changed after mm was imported; set it before, because Triton reads it again"
    )


class Visible(NamedTuple):
    """Which keys a row may see. Every part may be None; all are contiguous."""

    lengths: Tensor | None  # int32 (B,)
    mask: Tensor | None  # int32 (B, N)
    ranges: Tensor | None  # int32 (B, M, 2), ragged (1, M, 2)
    cu_rows: Tensor | None  # int32 (B + 1,)

    def mask_stride(self) -> int:
        return 0 if self.mask is None else self.mask.stride(0)


class Sizes(NamedTuple):
    """The numbers of a problem, and the machine it runs on."""

    contexts: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    head_dim: int
    itemsize: int
    ragged: bool
    arch: int
    processors: int

    @property
    def group(self) -> int:
        return self.heads // self.kv_heads

    @property
    def rows(self) -> int:
        """Packed rows per context and key head; ragged: on average."""
        return (-(-self.queries // self.contexts) if self.ragged else self.queries) * self.group

    @property
    def all_rows(self) -> int:
        """H * M of all contexts."""
        return self.heads * self.queries * (1 if self.ragged else self.contexts)

    @property
    def block_d(self) -> int:
        return tuning.padded_head(self.head_dim)

    @property
    def padded_contexts(self) -> int:
        return 1 << (self.contexts - 1).bit_length() if self.ragged else 1

    def tile(self, kernel: str) -> tuning.Tile:
        return tuning.tile(kernel, self.arch, self.itemsize, self.head_dim, self.rows)

    def row_grid(self, block_m: int) -> int:
        return row_grid(self.queries, self.contexts, self.kv_heads, self.group, block_m, self.ragged)


def sizes(query: Tensor, key: Tensor, visible: Visible) -> Sizes:
    contexts, kv_heads, keys, head_dim = key.shape
    machine = tuning.machine(query.device)
    ragged = visible.cu_rows is not None
    return Sizes(
        contexts, query.shape[1], kv_heads, query.shape[2], keys, head_dim, query.element_size(), ragged, *machine
    )


def precision(tensor: Tensor) -> str:
    """How a dot product of fp32 uses the tensor cores: as three TF32 products, unless TF32 was asked for."""
    wants_tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"  # also where the older allow_tf32 was set
    return "tf32" if tensor.dtype == torch.float32 and wants_tf32 else "tf32x3"


def by_row(tensor: Tensor) -> Tensor:
    """The kernels step over the last dimension one element at a time."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def steps(key: Tensor, value: Tensor, tile: tuning.Tile) -> tuple[int, int]:
    """Elements from one block of keys to the next; multiplied here, where integers do not overflow."""
    return tile.block_n * key.stride(2), tile.block_n * value.stride(2)


def forward(query: Tensor, key: Tensor, value: Tensor, visible: Visible, scale: float) -> tuple[Tensor, Tensor]:
    """output as `empty_states`, lse fp32 (B, H, M)."""
    output, lse = empty_states(query), query.new_empty(query.shape[:3], dtype=torch.float32)
    if not query.numel() or not key.numel():
        return output.zero_(), lse.fill_(float("-inf"))
    query, key, value = by_row(query), by_row(key), by_row(value)
    size = sizes(query, key, visible)
    tile = size.tile("forward")
    programs = size.row_grid(tile.block_m)
    splits = tuning.splits(
        size.rows, size.keys, programs, tile, size.head_dim, size.itemsize, size.processors
    )  # fmt: skip
    to, to_lse = output, lse
    if splits > 1:
        to = query.new_empty(splits, size.all_rows, size.head_dim, dtype=torch.float32)
        to_lse = query.new_empty(splits, size.all_rows, dtype=torch.float32)
    forward_kernel[(programs, splits)](
        query, key, value, to, to_lse, *visible,
        scale, size.queries, size.keys, size.contexts, size.kv_heads, size.all_rows,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *output.stride()[:3], visible.mask_stride(),
        *steps(key, value, tile),
        D=size.head_dim, GROUP=size.group, CONTEXTS=size.padded_contexts,
        BLOCK_D=size.block_d, BLOCK_M=tile.block_m, BLOCK_N=tile.block_n,
        SPLIT=splits > 1, LEAN=tile.lean, PRECISION=precision(query), **tile.options(),
    )  # fmt: skip
    if splits > 1:
        tile = tuning.ROWS_ALONE["combine"]
        combine_kernel[(triton.cdiv(size.all_rows, tile.block_m),)](
            to, to_lse, output, lse, size.queries, size.heads, size.all_rows, splits, *output.stride()[:3],
            D=size.head_dim, BLOCK_D=size.block_d, BLOCK_M=tile.block_m, **tile.options(),
        )  # fmt: skip
    return output, lse


def backward(
    grad: Tensor, grad_lse: Tensor | None, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor,
    visible: Visible, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of query, key and value as `empty_states`."""
    dq, dk, dv = empty_states(query), empty_states(key), empty_states(value)
    if not query.numel() or not key.numel():
        return dq.zero_(), dk.zero_(), dv.zero_()
    query, key, value, output, grad = (by_row(tensor) for tensor in (query, key, value, output, grad))
    size = sizes(query, key, visible)
    lse2, delta = torch.empty_like(lse), torch.empty_like(lse)
    tile = tuning.ROWS_ALONE["delta"]
    delta_kernel[(triton.cdiv(size.all_rows, tile.block_m),)](
        output, grad, lse, None if grad_lse is None else grad_lse.contiguous(), lse2, delta,
        size.queries, size.heads, size.all_rows, *output.stride()[:3], *grad.stride()[:3],
        D=size.head_dim, BLOCK_D=size.block_d, BLOCK_M=tile.block_m, **tile.options(),
    )  # fmt: skip
    inputs = (query, key, value, grad, lse2, delta)
    strides = [stride for tensor in inputs[:4] for stride in tensor.stride()[:3]]
    widths = {"D": size.head_dim, "GROUP": size.group, "BLOCK_D": size.block_d, "PRECISION": precision(query)}
    tile = size.tile("dq")
    query_gradient_kernel[(size.row_grid(tile.block_m),)](
        *inputs, dq, *visible, scale, size.queries, size.keys, size.contexts, size.kv_heads,
        *strides, *dq.stride()[:3], visible.mask_stride(), *steps(key, value, tile),
        CONTEXTS=size.padded_contexts, BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, **widths, **tile.options(),
    )  # fmt: skip
    tile = size.tile("dkdv")
    key_value_gradient_kernel[(triton.cdiv(size.keys, tile.block_n) * size.contexts * size.kv_heads,)](
        *inputs, dk, dv, *visible, scale, size.queries, size.keys, size.kv_heads,
        *strides, *dk.stride()[:3], *dv.stride()[:3], visible.mask_stride(),
        BLOCK_M=tile.block_m, BLOCK_N=tile.block_n, **widths, **tile.options(),
    )  # fmt: skip
    return dq, dk, dv


def mass(query: Tensor, key: Tensor, lse: Tensor, visible: Visible, scale: float) -> Tensor:
    """fp32 (B, H, N)."""
    contexts, _, keys, _ = key.shape
    result = query.new_empty(contexts, query.shape[1], keys, dtype=torch.float32)
    if not query.numel() or not key.numel():
        return result.zero_()
    query, key = by_row(query), by_row(key)
    size = sizes(query, key, visible)
    tile = size.tile("mass")
    mass_kernel[(triton.cdiv(keys, tile.block_n) * contexts * size.heads,)](
        query, key, lse, result, *visible, scale, size.queries, size.keys, size.heads,
        *query.stride()[:3], *key.stride()[:3], visible.mask_stride(),
        D=size.head_dim, GROUP=size.group, BLOCK_D=size.block_d, BLOCK_M=tile.block_m, BLOCK_N=tile.block_n,
        PRECISION=precision(query), **tile.options(),
    )  # fmt: skip
    return result
