"""Checks the arguments of flash_cross_attention before any kernel is launched."""

import math

import torch
from torch import Tensor
from torch._guards import detect_fake_mode

INTEGERS = (torch.int32, torch.int64)
STATES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MAX_HEAD_DIM = 256


def check_inputs(
    query: Tensor, key: Tensor, value: Tensor, key_lengths: Tensor | None, key_mask: Tensor | None,
    row_ranges: Tensor | None, cu_rows: Tensor | None, scale: float | None,
) -> float:  # fmt: skip
    """Types, shapes, dtypes and devices, all without reading a value. Returns the scale."""
    _check_tensors(query=query, key=key, value=value)
    optional = {"key_lengths": key_lengths, "key_mask": key_mask, "row_ranges": row_ranges, "cu_rows": cu_rows}
    given = {name: tensor for name, tensor in optional.items() if tensor is not None}
    _check_tensors(**given)
    _check_states(query, key, value, cu_rows is not None)
    batch, _, keys, _ = key.shape
    for name, tensor in {"key": key, "value": value, **given}.items():
        if tensor.device != query.device:
            raise ValueError(f"{name} is on {tensor.device}, query on {query.device}; move them to one device")
    if key_mask is not None:
        _check("key_mask", key_mask, (torch.bool,), (batch, keys), "True = the key may be seen")
    if key_lengths is not None:
        _check("key_lengths", key_lengths, INTEGERS, (batch,), "real keys per context")
    if cu_rows is not None:
        _check("cu_rows", cu_rows, INTEGERS, (batch + 1,), "the first query of each context, and their number")
    if row_ranges is not None:
        shape = (query.shape[0], query.shape[2], 2)
        _check("row_ranges", row_ranges, INTEGERS, shape, "the keys low <= n < high of each query")
    return _checked_scale(scale, query.shape[3])


def check_values(
    query: Tensor, key: Tensor, key_lengths: Tensor | None, row_ranges: Tensor | None, cu_rows: Tensor | None
) -> None:
    """The numbers themselves, unless that is impossible: while compiling, exporting or capturing a CUDA graph."""
    if not _may_read(query):
        return
    keys, queries = key.shape[2], query.shape[2]
    if key_lengths is not None and key_lengths.numel():
        low, high = int(key_lengths.min()), int(key_lengths.max())
        if low < 0 or high > keys:
            raise ValueError(f"key_lengths must be in 0..{keys}, the number of keys; got {low}..{high}")
    if row_ranges is not None and row_ranges.numel():
        low, high = int(row_ranges.min()), int(row_ranges.max())
        if low < 0 or high > keys:
            raise ValueError(f"row_ranges must be in 0..{keys}, the number of keys; got {low}..{high}")
    if cu_rows is not None:
        bounds = cu_rows.tolist()
        if bounds[0] != 0 or bounds[-1] != queries or bounds != sorted(bounds):
            raise ValueError(
                f"cu_rows must rise from 0 to the {queries} queries, one bound per context and one more; got {bounds}"
            )


def _check_states(query: Tensor, key: Tensor, value: Tensor, ragged: bool) -> None:
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.ndim != 4:
            raise ValueError(f"{name} must be (batch, heads, length, head width); got {tuple(tensor.shape)}")
        if tensor.dtype not in STATES:
            raise ValueError(f"{name} must be float16, bfloat16, float32 or float64; got {tensor.dtype}")
    if key.shape != value.shape:
        raise ValueError(f"key {tuple(key.shape)} and value {tuple(value.shape)} must have one shape")
    if not query.dtype == key.dtype == value.dtype and not torch.is_autocast_enabled(query.device.type):
        raise ValueError(f"query, key and value must have one dtype; got {query.dtype}, {key.dtype} and {value.dtype}")
    batch, kv_heads, _, width = key.shape
    if not 1 <= query.shape[3] <= MAX_HEAD_DIM or query.shape[3] != width:
        raise ValueError(
            f"the head width must be 1..{MAX_HEAD_DIM} and the same in query and key; got {query.shape[3]} and {width}"
        )
    if kv_heads == 0 or query.shape[1] % kv_heads:
        raise ValueError(f"query's {query.shape[1]} heads must be a multiple of key's {kv_heads}")
    wanted = 1 if ragged else batch
    if query.shape[0] != wanted:
        why = "with cu_rows all queries lie in one batch entry" if ragged else "as many contexts as key has"
        raise ValueError(f"query must have batch size {wanted} ({why}); got {tuple(query.shape)}")


def _check_tensors(**tensors) -> None:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor; got {type(tensor).__name__}")


def _check(name: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...], shape: tuple[int, ...], meaning: str) -> None:
    if tensor.dtype not in dtypes or tuple(tensor.shape) != shape:
        accepted = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise ValueError(f"{name} must be {accepted} {shape} ({meaning}); got {tensor.dtype} {tuple(tensor.shape)}")


def _checked_scale(scale: float | None, head_dim: int) -> float:
    if scale is None:
        return head_dim**-0.5
    if isinstance(scale, bool) or not isinstance(scale, int | float):
        raise TypeError(f"scale must be a number or None; got {type(scale).__name__}")
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be a finite number above 0, or None for head width ** -0.5; got {scale}")
    return float(scale)


def _may_read(tensor: Tensor) -> bool:
    if torch.compiler.is_compiling() or tensor.device.type == "meta" or detect_fake_mode(tensor):
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())
