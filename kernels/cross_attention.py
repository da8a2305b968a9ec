"""flash_cross_attention: the public function, over custom ops that compile, export and differentiate.

B contexts · H query heads · Hkv key heads (H a multiple of it) · M queries · N keys · D head width.
On CUDA the ops run the Triton kernels; on other devices, and for float64, the plain-torch reference. With
TRITON_INTERPRET=1 set before MM is imported, CPU tensors run the kernels through Triton's interpreter; bfloat16, which
it cannot compute, goes to the reference.
"""

from typing import Literal, overload

import torch
from torch import Tensor

from .checks import MAX_HEAD_DIM, check_inputs, check_values
from .interpreter import HAS_TRITON, IS_INTERPRETED
from .reference import Attended, empty_states, reference_attention, reference_backward

__all__ = ["MAX_HEAD_DIM", "attend", "attend_with_lse", "flash_cross_attention", "runs_kernels"]

KERNEL_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# Triton's interpreter adds and multiplies the bit patterns of bf16 as integers, and cuts off where it should round.
INTERPRETED_DTYPES = (torch.float16, torch.float32)


def runs_kernels(tensor: Tensor) -> bool:
    """Whether the Triton kernels compute this tensor's attention; otherwise the reference does.

    They need an NVIDIA GPU of compute capability 8.0 or later and float16, bfloat16 or float32; in Triton's own
    interpreter float16 or float32.
    """
    if tensor.dtype not in (INTERPRETED_DTYPES if IS_INTERPRETED else KERNEL_DTYPES):
        return False
    if tensor.device.type == "cuda":
        capable = torch.version.hip is None and torch.cuda.get_device_capability(tensor.device) >= (8, 0)
        return capable and HAS_TRITON
    return tensor.device.type == "cpu" and IS_INTERPRETED


@overload
def flash_cross_attention(  # pyright: ignore[reportOverlappingOverload]: a bool that is not known takes the second
    query: Tensor, key: Tensor, value: Tensor, *, key_lengths: Tensor | None = None, key_mask: Tensor | None = None,
    row_ranges: Tensor | None = None, cu_rows: Tensor | None = None, scale: float | None = None,
    return_lse: Literal[False] = False, return_mass: Literal[False] = False,
) -> Tensor: ...  # fmt: skip


@overload
def flash_cross_attention(
    query: Tensor, key: Tensor, value: Tensor, *, key_lengths: Tensor | None = None, key_mask: Tensor | None = None,
    row_ranges: Tensor | None = None, cu_rows: Tensor | None = None, scale: float | None = None,
    return_lse: bool = False, return_mass: bool = False,
) -> Attended: ...  # fmt: skip


def flash_cross_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    key_lengths: Tensor | None = None,
    key_mask: Tensor | None = None,
    row_ranges: Tensor | None = None,
    cu_rows: Tensor | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    return_mass: bool = False,
) -> Tensor | Attended:
    """softmax(query key^T * scale) value, where all queries of a context read the same keys, never copied.

    Rows of a context (beams, questions) are more queries: fold (k, T) into M = k*T, or pack ragged rows one context
    after another with cu_rows. A query that may see no key gives output exactly 0, lse -inf and no gradient.

    Args:
        query: float (B, H, M, D), D of 1..256; with cu_rows (1, H, M, D), the queries of all contexts.
        key, value: (B, Hkv, N, D), of query's dtype and device. Any strides; the last one 1 saves a copy.
        key_lengths: int (B,), 0..N, only the first that many keys of a context are real. Reading them to check them
            waits for the device; nothing is read while compiling, exporting or capturing a CUDA graph.
        key_mask: bool (B, N), True = may be seen. Padding at the end is cheaper as key_lengths.
        row_ranges: int (B, M, 2), with cu_rows (1, M, 2): query m sees only the keys low <= n < high, in 0..N.
        cu_rows: int (B + 1,), from 0 to M: context b has the queries cu_rows[b] to cu_rows[b + 1].
        scale: a positive number; None is D ** -0.5.
        return_lse, return_mass: also lse float32 (B, H, M), the natural log of the sum of exp(score), and mass
            float32 (B, H, N), the attention that each key received from all queries (both float64 for float64 input).
    Returns: output (B, H, M, D), laid out as (B, M, H, D); with a flag Attended(output, lse, mass), None where not
        asked for. Gradients flow through output and lse; a backward through mass raises RuntimeError.
    Raises: ValueError or TypeError with the argument and the accepted values, before any kernel is launched.
    Sources: Dao 2023 (arXiv:2307.08691); shared keys of several heads: Ainslie et al. 2023 (arXiv:2305.13245).
    """
    scale = check_inputs(query, key, value, key_lengths, key_mask, row_ranges, cu_rows, scale)
    check_values(query, key, key_lengths, row_ranges, cu_rows)
    lengths, ranges, cu_rows = map(_int32, (key_lengths, row_ranges, cu_rows))
    if key_mask is not None:
        # int32: next to a narrower load the compiler packs the operands of the dot products for bytes
        key_mask = key_mask.to(torch.int32).contiguous()
    rest = (lengths, key_mask, ranges, cu_rows, scale)
    output, lse = torch.ops.mm.cross_attention_forward(query, key, value, *rest)
    if not return_lse and not return_mass:
        return output
    mass = None
    if return_mass:
        mass = torch.ops.mm.cross_attention_mass(query, key, lse, *rest)
    return Attended(output, lse if return_lse else None, mass)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_lengths: Tensor | None = None,
    row_ranges: Tensor | None = None,
    cu_rows: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """`flash_cross_attention` of a caller that made the lengths itself: shapes are checked, numbers are not read.

    A model calls this at every decode step, where waiting for the device would cost more than the attention.
    """
    return attend_with_lse(query, key, value, key_lengths, row_ranges, cu_rows, scale)[0]


def attend_with_lse(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_lengths: Tensor | None = None,
    row_ranges: Tensor | None = None,
    cu_rows: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """As `attend`; and lse float32 (B, H, M), for a caller that merges it with attention over other keys."""
    scale = check_inputs(query, key, value, key_lengths, None, row_ranges, cu_rows, scale)
    lengths, ranges, cu_rows = map(_int32, (key_lengths, row_ranges, cu_rows))
    return torch.ops.mm.cross_attention_forward(query, key, value, lengths, None, ranges, cu_rows, scale)


def _int32(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.to(torch.int32).contiguous()


# -- ops: what torch.compile, export and autograd see -----------------------------------------------------------------


@torch.library.custom_op("mm::cross_attention_forward", mutates_args=())
def _forward(
    query: Tensor, key: Tensor, value: Tensor, key_lengths: Tensor | None, key_mask: Tensor | None,
    row_ranges: Tensor | None, cu_rows: Tensor | None, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """output and lse. key_lengths, key_mask, row_ranges, cu_rows int32, all contiguous."""
    if runs_kernels(query):
        from . import launch

        visible = launch.Visible(key_lengths, key_mask, row_ranges, cu_rows)
        with _on(query):
            return launch.forward(query, key, value, visible, scale)
    truth = reference_attention(
        *_widened(query, key, value), key_lengths=key_lengths, key_mask=key_mask, row_ranges=row_ranges,
        cu_rows=cu_rows, scale=scale,
    )  # fmt: skip
    return _as_states(truth.output, query.dtype), truth.lse.contiguous()


@torch.library.custom_op("mm::cross_attention_backward", mutates_args=())
def _backward(
    grad: Tensor, grad_lse: Tensor | None, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor,
    key_lengths: Tensor | None, key_mask: Tensor | None, row_ranges: Tensor | None, cu_rows: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of query, key and value."""
    if runs_kernels(query):
        from . import launch

        visible = launch.Visible(key_lengths, key_mask, row_ranges, cu_rows)
        with _on(query):
            return launch.backward(grad, grad_lse, query, key, value, output, lse, visible, scale)
    grad, wide_query, key, value, output = _widened(grad, query, key, value, output)
    grads = reference_backward(
        grad, grad_lse, wide_query, key, value, output, lse, key_lengths=key_lengths, key_mask=key_mask,
        row_ranges=row_ranges, cu_rows=cu_rows, scale=scale,
    )  # fmt: skip
    dq, dk, dv = (_as_states(tensor, query.dtype) for tensor in grads)
    return dq, dk, dv


@torch.library.custom_op("mm::cross_attention_mass", mutates_args=())
def _mass(
    query: Tensor, key: Tensor, lse: Tensor, key_lengths: Tensor | None, key_mask: Tensor | None,
    row_ranges: Tensor | None, cu_rows: Tensor | None, scale: float,
) -> Tensor:  # fmt: skip
    """What each key was given by all queries."""
    if runs_kernels(query):
        from . import launch

        visible = launch.Visible(key_lengths, key_mask, row_ranges, cu_rows)
        with _on(query):
            return launch.mass(query, key, lse, visible, scale)
    query, key = _widened(query, key)
    truth = reference_attention(
        query, key, key, key_lengths=key_lengths, key_mask=key_mask, row_ranges=row_ranges, cu_rows=cu_rows,
        scale=scale,
    )  # fmt: skip
    return truth.mass.contiguous()


def _on(tensor: Tensor):
    """Launches go to the tensor's GPU, not to the current one."""
    return torch.cuda.device(tensor.device if tensor.is_cuda else -1)


def _widened(*tensors: Tensor) -> list[Tensor]:
    """16-bit tensors in float32, where the reference computes, as the kernels accumulate."""
    return [tensor.to(_wide(tensor.dtype)) for tensor in tensors]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _as_states(states: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, heads, n, D) in dtype, laid out as (B, n, heads, D): the layout that every path returns."""
    return empty_states(states, dtype).copy_(states)


@_forward.register_fake
def _(query, key, value, key_lengths, key_mask, row_ranges, cu_rows, scale):
    return empty_states(query), query.new_empty(query.shape[:3], dtype=_wide(query.dtype))


@_backward.register_fake
def _(grad, grad_lse, query, key, value, output, lse, key_lengths, key_mask, row_ranges, cu_rows, scale):
    return empty_states(query), empty_states(key), empty_states(value)


@_mass.register_fake
def _(query, key, lse, key_lengths, key_mask, row_ranges, cu_rows, scale):
    return query.new_empty(key.shape[0], query.shape[1], key.shape[2], dtype=_wide(query.dtype))


# -- autograd ---------------------------------------------------------------------------------------------------------


def _save_forward(ctx, inputs, output) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)  # an unused lse has no gradient, not one of zeros


def _backward_of_forward(ctx, grad, grad_lse):
    query, key, value, *visible, output, lse = ctx.saved_tensors
    if grad is None:
        grad = torch.zeros_like(output)
    grads = torch.ops.mm.cross_attention_backward(
        grad, grad_lse, query, key, value, output, lse, *visible, ctx.scale
    )  # fmt: skip
    return *grads, None, None, None, None, None


def _refuse_second_derivative(ctx, *grads):
    raise RuntimeError(
        "flash_cross_attention has no second derivative; use attn_implementation='eager' or kernels.reference"
    )


@torch.library.custom_op("mm::cross_attention_mass_backward", mutates_args=())
def _mass_backward(grad: Tensor, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Zeros without a gradient; an op of its own, because a compiler traces the backward of an unused mass."""
    if grad.any():
        raise RuntimeError(
            "the per-key mass of flash_cross_attention is not differentiable; detach() it, or use "
            "kernels.reference.reference_attention"
        )
    return torch.zeros_like(query), torch.zeros_like(key)


@_mass_backward.register_fake
def _(grad, query, key):
    return torch.empty_like(query), torch.empty_like(key)


def _save_mass(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])


def _backward_of_mass(ctx, grad):
    return *torch.ops.mm.cross_attention_mass_backward(grad, *ctx.saved_tensors), *[None] * 6


_forward.register_autograd(_backward_of_forward, setup_context=_save_forward)
_backward.register_autograd(_refuse_second_derivative)
_mass.register_autograd(_backward_of_mass, setup_context=_save_mass)


# -- autocast: as for torch's own attention, the inputs are cast to the autocast dtype --------------------------------


def _autocast(op, states: int, device: str):
    """The rule of one op, whose first so many arguments are the states."""

    def cast(*args):
        dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            given = (tensor.to(dtype) if tensor.dtype != torch.float64 else tensor for tensor in args[:states])
            return op(*given, *args[states:])

    return cast


_library = torch.library.Library("mm", "FRAGMENT")
for _device in ("cuda", "cpu"):
    for _op, _states in ((_forward, 3), (_mass, 2)):
        _library.impl(_op._name, _autocast(_op, _states, _device), f"Autocast{_device.upper()}")
