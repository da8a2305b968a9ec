"""Convolutions whose gradients are computed in fp32 where bf16 is slower: depthwise ones on a CPU."""

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
        channels = [len(weight)] if ctx.has_bias else None
        inputs = (part.float() for part in (*upstream, x, weight))
        grads = torch.ops.aten.convolution_backward(
            *inputs, channels, stride, padding, [1, 1], False, [0, 0], groups, ctx.needs_input_grad[:3]
        )
        return *(None if grad is None else grad.bfloat16() for grad in grads), None, None, None


def convolved(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *geometry) -> torch.Tensor:
    """F.conv2d; geometry: stride, padding, groups.

    On a CPU the gradients of a depthwise convolution in bf16 are computed in fp32, as those of oneDNN are slower in
    bf16. That depends only on dtype and device, so a resumed run does the same.
    """
    stride, padding, groups = geometry
    is_slow = groups > 1 and x.dtype == torch.bfloat16 and x.device.type == "cpu" and torch.is_grad_enabled()
    if is_slow and (x.requires_grad or weight.requires_grad) and not torch.compiler.is_compiling():
        found: Any = _BackInFp32.apply(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), *geometry)
        return found
    return F.conv2d(x, weight, bias, stride, padding, groups=groups)
