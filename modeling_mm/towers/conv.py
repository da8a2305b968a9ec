"""MMConvModel: the convolutional vision tower. Its feature map, read row by row, is the sequence of tokens.

Shapes: n pictures, C channels, H x W pixels, h x w positions of the feature map, S = h * w tokens, D token width.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.output_capturing import capture_outputs

from ...configuration.conv import MMConvConfig
from ..core.base import MMPreTrainedModel
from ..core.input_checks import check_pixels, other_size
from ..core.inputs_outputs import reject_unknown, takes
from .conv_units import MMConvPool, MMConvStem, MMConvUnit, MMFrozenBatchNorm, activation


class MMPlainBlock(GradientCheckpointingLayer):
    """VGG's: one convolution. Source: Simonyan & Zisserman 2014 (arXiv:1409.1556)."""

    def __init__(self, config: MMConvConfig, inputs: int, outputs: int, stride: int, kernel_size: int, expansion: int):
        super().__init__()
        self.conv = MMConvUnit(config, inputs, outputs, kernel_size, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def _shortcut(config: MMConvConfig, inputs: int, outputs: int, stride: int) -> nn.Module:
    """The identity where shapes agree, else a 1x1 convolution."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return MMConvUnit(config, inputs, outputs, stride=stride, act=False)


class MMResidualBlock(GradientCheckpointingLayer):
    """ResNet-18's: two convolutions and a shortcut. Source: He et al. 2015 (arXiv:1512.03385)."""

    def __init__(self, config: MMConvConfig, inputs: int, outputs: int, stride: int, kernel_size: int, expansion: int):
        super().__init__()
        self.conv1 = MMConvUnit(config, inputs, outputs, kernel_size, stride)
        self.conv2 = MMConvUnit(config, outputs, outputs, kernel_size, act=False)
        self.shortcut = _shortcut(config, inputs, outputs, stride)
        self.act = activation(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.conv2(self.conv1(x)) + self.shortcut(x))


class MMBottleneckBlock(GradientCheckpointingLayer):
    """ResNet-50's: reduce, convolve (here the stride: version 1.5), widen, and a shortcut. Source: as above."""

    def __init__(self, config: MMConvConfig, inputs: int, outputs: int, stride: int, kernel_size: int, expansion: int):
        super().__init__()
        inner = outputs // expansion
        self.reduce = MMConvUnit(config, inputs, inner)
        self.conv = MMConvUnit(config, inner, inner, kernel_size, stride)
        self.widen = MMConvUnit(config, inner, outputs, act=False)
        self.shortcut = _shortcut(config, inputs, outputs, stride)
        self.act = activation(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.widen(self.conv(self.reduce(x))) + self.shortcut(x))


class MMSqueeze(nn.Module):
    """Each channel times a share that follows from the means of all: sigmoid(expand(act(reduce(mean x)))).

    Source: Hu et al. 2018 (arXiv:1709.01507).
    """

    def __init__(self, config: MMConvConfig, channels: int, width: int):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, width, 1), nn.Conv2d(width, channels, 1)
        self.act = activation(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True)))))


class MMInvertedBlock(GradientCheckpointingLayer):
    """MobileNetV2's: expand, convolve each channel by itself, squeeze in EfficientNet, project; a shortcut only where
    shapes agree.

    Source: Sandler et al. 2018 (arXiv:1801.04381), Tan & Le 2019 (arXiv:1905.11946). expansion=1 has no expanding
    convolution.
    """

    def __init__(
        self,
        config: MMConvConfig,
        inputs: int,
        outputs: int,
        stride: int,
        kernel_size: int,
        expansion: int,
        squeeze: int | None = None,
    ):
        super().__init__()
        inner = inputs * expansion
        self.expand = MMConvUnit(config, inputs, inner) if expansion > 1 else nn.Identity()
        self.depthwise = MMConvUnit(config, inner, inner, kernel_size, stride, groups=inner)
        self.squeeze = MMSqueeze(config, inner, max(1, inputs // squeeze)) if squeeze else nn.Identity()
        self.project = MMConvUnit(config, inner, outputs, act=False)
        self.adds_input = inputs == outputs and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + y if self.adds_input else y


BLOCKS = {
    "plain": MMPlainBlock,
    "residual": MMResidualBlock,
    "bottleneck": MMBottleneckBlock,
    "inverted": MMInvertedBlock,
}


class MMConvStage(nn.Sequential):
    """The blocks of one stage, the first with its stride, and its pooling."""


def _stage(config: MMConvConfig, inputs: int, stage: dict) -> MMConvStage:
    block, outputs = BLOCKS[stage["block"]], stage["channels"]
    blocks: list[nn.Module] = []
    more = {"squeeze": stage["squeeze"]} if "squeeze" in stage else {}
    for number in range(stage["depth"]):
        stride = stage["stride"] if number == 0 else 1
        blocks.append(block(config, inputs, outputs, stride, stage["kernel_size"], stage["expansion"], **more))
        inputs = outputs
    return MMConvStage(*blocks, *([MMConvPool(config, stage["pool"])] if stage["pool"] else []))


class MMGridPositions(nn.Module):
    """One learned vector per row and one per column; a token's position is their sum."""

    def __init__(self, config: MMConvConfig):
        super().__init__()
        self.row = nn.Parameter(torch.empty(config.grid_size, config.hidden_size))
        self.column = nn.Parameter(torch.empty(config.grid_size, config.hidden_size))

    def forward(self, height: int, width: int) -> torch.Tensor:
        """(height * width, D), row by row; another grid than the config's is interpolated linearly."""
        row, column = self._resized(self.row, height), self._resized(self.column, width)
        return (row[:, None] + column[None]).flatten(0, 1)

    def _resized(self, table: torch.Tensor, size: int) -> torch.Tensor:
        if size == table.shape[0]:
            return table
        return F.interpolate(table.T[None], size=size, mode="linear", align_corners=False)[0].T


class MMConvModel(MMPreTrainedModel):
    """Pictures to tokens: stem, stages, a 1x1 head, positions. Hidden states: maps of the stem and stages."""

    config: MMConvConfig  # pyright: ignore[reportIncompatibleVariableOverride]: its own
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    _no_split_modules = ["MMPlainBlock", "MMResidualBlock", "MMBottleneckBlock", "MMInvertedBlock"]
    _can_record_outputs = {"hidden_states": MMConvStage}

    def __init__(self, config: MMConvConfig):
        super().__init__(config)
        width = config.num_channels
        self.stem = nn.Identity()
        if config.stem is not None:
            self.stem, width = MMConvStem(config, **config.stem), config.stem["channels"]
        self.stages = nn.ModuleList()
        for stage in config.stages or []:
            self.stages.append(_stage(config, width, stage))
            width = stage["channels"]
        self.head = MMConvUnit(config, width, config.head_channels) if config.head_channels else nn.Identity()
        self.embed_positions = MMGridPositions(config) if config.position_embedding_type == "absolute" else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):  # He et al. 2015: gradients keep their size through a rectifier
            fan_out = module.weight.shape[0] // module.groups * module.weight[0, 0].numel()
            init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(module, MMFrozenBatchNorm):
            module.reset()
        elif isinstance(module, MMGridPositions):
            init.normal_(module.row, std=self.config.initializer_range)
            init.normal_(module.column, std=self.config.initializer_range)

    def feature_map(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(n, C, H, W), any size from the total stride up -> (n, D, h, w), before positions.

        What a frozen tower may compute once and keep: `tokens` continues from here.
        """
        # Channels-last is several times faster for depthwise convolutions on a CPU, and makes the tokens a view.
        x = pixel_values.to(self.dtype, memory_format=torch.channels_last)
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x)

    def tokens(self, feature_map: torch.Tensor) -> BaseModelOutputWithPooling:
        """(n, D, h, w) -> last_hidden_state (n, h * w, D), row by row, with positions, and their mean (n, D)."""
        tokens = feature_map.flatten(2).transpose(1, 2)
        if self.embed_positions is not None:
            tokens = tokens + self.embed_positions(*feature_map.shape[-2:])
        pooled = tokens.mean(1) if self.config.pooler == "mean" else None
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=pooled)

    @capture_outputs(tie_last_hidden_states=False)
    @takes()
    def forward(
        self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False, **kwargs
    ) -> BaseModelOutputWithPooling:
        """Encodes pictures.

        Args:
            pixel_values: floating (n, C, H, W), normalised as the processor does.
            interpolate_pos_encoding: allow another size than image_size; positions are then interpolated.

        Returns: last_hidden_state (n, S, D), tokens row by row; pooler_output (n, D), their mean, or None.

        Raises: TypeError or ValueError for another type, shape, channel count or size, or an unknown argument.
        """
        reject_unknown(kwargs, MMConvModel.forward)
        self._check(pixel_values, interpolate_pos_encoding)
        return self.tokens(self.feature_map(pixel_values))

    def _check(self, pixel_values: torch.Tensor, any_size: bool) -> None:
        check_pixels(pixel_values, self.config.num_channels)
        sides, size, least = tuple(pixel_values.shape[2:]), self.config.image_size, self.config.total_stride
        if not any_size and sides != (size, size):
            raise other_size(pixel_values, size)
        if min(sides) < least:
            raise ValueError(f"pixel_values are {sides[0]}x{sides[1]}; each side must be at least {least}")
