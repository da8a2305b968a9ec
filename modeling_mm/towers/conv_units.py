"""The convolutions of MMConvModel: with a batch norm that may be frozen, and paddings of two kinds.

Shapes: n pictures, C channels, H x W pixels, h x w positions of the feature map.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN

from ...configuration.conv import MMConvConfig
from .depthwise import convolved


def same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Zeros before and after a side of `size` for ceil(size / stride) windows, TensorFlow's rule: the odd one last."""
    total = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


class MMFrozenBatchNorm(nn.Module):
    """Batch normalisation by fixed statistics, in training too: a scale and a shift per channel.

    All its tensors are buffers, so no optimizer, `requires_grad_` or loading thaws them. Their names are those of
    nn.BatchNorm2d (the counter too): freezing is a matter of the config, the checkpoint is the same.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def reset(self) -> None:
        """The identity, except for eps; tensors that a checkpoint filled stay."""
        init.ones_(self.weight)
        init.zeros_(self.bias)
        init.zeros_(self.running_mean)
        init.ones_(self.running_var)
        init.zeros_(self.num_batches_tracked)

    def forward(self, x: torch.Tensor | None = None) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """x * scale + shift, or without x only scale and shift, each (channels,), at least fp32, to be folded in.

        In both cases called as a module so that offloading hooks run.
        """
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        scale = self.weight.to(dtype) * torch.rsqrt(self.running_var.to(dtype) + self.eps)
        shift = self.bias.to(dtype) - self.running_mean.to(dtype) * scale
        if x is None:
            return scale, shift
        return x * scale.to(x.dtype).view(1, -1, 1, 1) + shift.to(x.dtype).view(1, -1, 1, 1)


class MMConv2d(nn.Conv2d):
    """A convolution that gives ceil(H / stride) x ceil(W / stride), padded by the config's rule; odd kernels only."""

    def __init__(self, config: MMConvConfig, inputs: int, outputs: int, kernel_size: int, stride: int, groups: int):
        # With stride 1 both rules are the same symmetric padding.
        self.odd_zero_last = config.padding == "same" and stride > 1
        bias, padding = config.conv_bias or not config.batch_norm, kernel_size // 2
        super().__init__(inputs, outputs, kernel_size, stride, padding, groups=groups, bias=bias)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]: its input is called x
        self, x: torch.Tensor, norm: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """(n, C, H, W) -> (n, outputs, h, w), a frozen norm folded in (scale, shift): one pass over pixels less."""
        weight, bias = self.weight, self.bias
        if norm is not None:
            scale, shift = norm
            shift = shift if bias is None else shift + scale * bias
            weight, bias = (weight * scale.view(-1, 1, 1, 1)).to(x.dtype), shift.to(x.dtype)
        if self.kernel_size == (1, 1):
            # A kernel of one pixel gets only the pixels it reads. With a stride, torch 2.13's gradient of its weights
            # writes past its memory on CPUs with AVX2 and without AVX-512.
            if self.stride != (1, 1):
                x = x[:, :, :: self.stride[0], :: self.stride[1]]
            return convolved(x, weight, bias, (1, 1), (0, 0), self.groups)
        if not self.odd_zero_last:
            return convolved(x, weight, bias, self.stride, self.padding, self.groups)
        # One zero more after than before: pad alike on both sides, and let a leading zero in the kernel skip the
        # surplus. The same sums as padding the pixels (which would copy them), and a quarter faster on a CPU.
        (top, bottom), (left, right) = (same_padding(n, self.kernel_size[0], self.stride[0]) for n in x.shape[2:])
        # Not F.pad: ONNX Runtime takes a padded kernel for a padded picture and fails.
        weight = torch.cat([weight.new_zeros(*weight.shape[:3], right - left), weight], dim=3)
        weight = torch.cat([weight.new_zeros(*weight.shape[:2], bottom - top, weight.shape[3]), weight], dim=2)
        return convolved(x, weight, bias, self.stride, (bottom, right), self.groups)


def activation(config: MMConvConfig) -> nn.Module:
    """The config's activation; a rectifier works in place, as all its inputs here are fresh."""
    act = ACT2FN[config.hidden_act]
    if isinstance(act, (nn.ReLU, nn.ReLU6)):
        act.inplace = True
    return act


class MMConvUnit(nn.Module):
    """act(norm(conv(x)))."""

    def __init__(
        self,
        config: MMConvConfig,
        inputs: int,
        outputs: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
    ):
        super().__init__()
        self.conv = MMConv2d(config, inputs, outputs, kernel_size, stride, groups)
        self.norm: nn.Module | None = None
        if config.batch_norm:
            norm_class = MMFrozenBatchNorm if config.frozen_batch_norm else nn.BatchNorm2d
            self.norm = norm_class(outputs, eps=config.batch_norm_eps)
        self.act = activation(config) if act else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # An adapter wrapped around the convolution gets the plain order.
        if isinstance(self.norm, MMFrozenBatchNorm) and isinstance(self.conv, MMConv2d):
            return self.act(self.conv(x, self.norm()))
        x = self.conv(x)
        return self.act(x if self.norm is None else self.norm(x))


class MMConvPool(nn.Module):
    """Max pooling with stride 2."""

    def __init__(self, config: MMConvConfig, window: int):
        super().__init__()
        self.window, self.same = window, config.padding == "same"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.same:
            return F.max_pool2d(x, self.window, stride=2, padding=(self.window - 1) // 2)
        before = [same_padding(n, self.window, 2)[0] for n in x.shape[2:]]
        return F.max_pool2d(x, self.window, stride=2, padding=before, ceil_mode=True)


class MMConvStem(MMConvUnit):
    """A convolution and an optional pooling: pixels to the first feature map."""

    def __init__(self, config: MMConvConfig, channels: int, kernel_size: int, stride: int, pool: int):
        super().__init__(config, config.num_channels, channels, kernel_size, stride)
        self.pool = MMConvPool(config, pool) if pool else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(super().forward(x))
