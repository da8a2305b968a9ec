"""Convolutions whose gradients are computed in fp32 where bf16 is slower: depthwise ones on a CPU.

n pictures, C channels, H x W positions, k x k kernels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


class _BackInFp32(torch.autograd.Function):
    """A convolution in bf16 whose gradients are computed in fp32; its result and the gradients are bf16."""

    @staticmethod
    def forward(ctx, x, weight, bias, *geometry):
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.has_bias = geometry, bias is not None
        stride, padding, groups = geometry
        return F.conv2d(x, weight, bias, stride, padding, groups=groups)

    @staticmethod
    @once_differentiable
    def backward(ctx, *upstream):  # pyright: ignore[reportIncompatibleMethodOverride]: of once_differentiable
        (x, weight), (stride, padding, groups) = ctx.saved_tensors, ctx.geometry
        channels, needed = [len(weight)] if ctx.has_bias else None, list(ctx.needs_input_grad[:3])
        above, x, weight = (part.float() for part in (*upstream, x, weight))
        of_kernel = None
        if needed[1] and _sums_are_faster(x, weight, stride, padding, groups):
            needed[1], of_kernel = False, _kernel_gradient(above, x, weight.shape[-1])
        grads = torch.ops.aten.convolution_backward(
            above, x, weight, channels, stride, padding, [1, 1], False, [0, 0], groups, needed
        )
        found = (grads[0], grads[1] if of_kernel is None else of_kernel, grads[2])
        return *(None if grad is None else grad.bfloat16() for grad in found), None, None, None


def _sums_are_faster(x: torch.Tensor, weight: torch.Tensor, stride, padding, groups: int) -> bool:
    """Whether oneDNN's gradient of the kernel takes longer than k * k sums: measured for kernels of 5 and more on maps
    up to 8 x 8, by a factor of 2.8 (8 x 8) to 6.5 (4 x 4); a kernel of 3 is fast there."""
    size = weight.shape[-1]
    is_depthwise = weight.shape[1] == 1 and groups == x.shape[1] == weight.shape[0]
    keeps_size = tuple(stride) == (1, 1) and tuple(padding) == (size // 2, size // 2)
    return is_depthwise and keeps_size and weight.shape[-2] == size >= 5 and size % 2 == 1 and max(x.shape[2:]) <= 8


def _kernel_gradient(above: torch.Tensor, x: torch.Tensor, size: int) -> torch.Tensor:
    """(C, 1, k, k) of (n, C, H, W) twice: each weight's sum over the places where its pixel lies inside the map."""
    above, x = above.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)
    sums = []
    for down in range(-(size // 2), size // 2 + 1):
        rows, read_rows = _overlap(x.shape[1], down)
        for right in range(-(size // 2), size // 2 + 1):
            columns, read_columns = _overlap(x.shape[2], right)
            sums.append((x[:, read_rows, read_columns] * above[:, rows, columns]).sum((0, 1, 2)))
    return torch.stack(sums, 1).view(-1, 1, size, size)


def _overlap(length: int, shift: int) -> tuple[slice, slice]:
    """The places of a side whose neighbour `shift` further is inside, and those neighbours."""
    first = min(max(0, -shift), length)
    end = max(first, length - max(0, shift))
    return slice(first, end), slice(first + shift, max(0, end + shift)) if end > first else slice(0, 0)


def convolved(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *geometry) -> torch.Tensor:
    """F.conv2d; geometry: stride, padding, groups.

    On a CPU the gradients of a depthwise convolution in bf16 are computed in fp32, as those of oneDNN are slower in
    bf16, those of larger kernels on small maps as sums. That depends only on dtype, device and shapes, so a resumed
    run does the same.
    """
    stride, padding, groups = geometry
    is_slow = groups > 1 and x.dtype == torch.bfloat16 and x.device.type == "cpu" and torch.is_grad_enabled()
    if is_slow and (x.requires_grad or weight.requires_grad) and not torch.compiler.is_compiling():
        found: Any = _BackInFp32.apply(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), *geometry)
        return found
    return F.conv2d(x, weight, bias, stride, padding, groups=groups)
