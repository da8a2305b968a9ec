"""MMImageTokenizer: a picture as a short text of visual tokens, and back.

Shapes: B pictures, C channels, H x W pixels, h x w positions, d numbers of a code.

    pixels (B, C, H, W) -- encoder, norm --> (B, h, w, d) -- quantizer --> ids (B, h w), codes (B, h, w, d)
                                                            codes -- decoder --> pixels (B, C, H, W)
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.utils.generic import ModelOutput

from ...configuration.image_tokenizer import MMImageTokenizerConfig
from ..core.base import MMPreTrainedModel
from ..core.input_checks import check_pixels
from .quantizers import QUANTIZERS, CodebookVectors, FiniteScalars, MovingNorm


@dataclass
class MMImageTokenizerOutput(ModelOutput):
    """loss: scalar, or None where it was not asked for. reconstruction: (B, C, H, W), not cut to 0..1, so that its
    gradient is whole. ids: int64 (B, tokens_per_image). commitment_loss: scalar, the quantizer's part of the loss
    before its weight; 0 for FSQ."""

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    ids: torch.Tensor | None = None
    commitment_loss: torch.Tensor | None = None


class MMImageBlock(nn.Module):
    """x + conv(act(conv(norm(x)))). Its norm is that of groups of channels of one picture: no picture changes another.

    The second convolution starts at zero, so a new block changes nothing.
    """

    def __init__(self, config: MMImageTokenizerConfig, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(config.norm_groups, width, eps=config.norm_eps)
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.act = ACT2FN[config.hidden_act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(self.act(self.conv1(self.norm(x))))


class MMImageEncoder(nn.Module):
    """Patches, then stages of blocks; a convolution of stride 2 between two stages."""

    def __init__(self, config: MMImageTokenizerConfig):
        super().__init__()
        widths = config.widths
        self.patches = nn.Conv2d(config.num_channels, widths[0], config.patch_sides, config.patch_sides)
        layers: list[nn.Module] = []
        for number, width in enumerate(widths):
            if number:
                layers.append(nn.Conv2d(widths[number - 1], width, 3, stride=2, padding=1))
            layers += [MMImageBlock(config, width) for _ in range(config.depth)]
        self.layers = nn.Sequential(*layers)
        self.norm = nn.GroupNorm(config.norm_groups, widths[-1], eps=config.norm_eps)
        self.head = nn.Conv2d(widths[-1], config.code_width, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) in 0..1 -> (B, d, h, w)."""
        return self.head(self.norm(self.layers(self.patches(2 * pixels - 1))))


class MMImageDecoder(nn.Module):
    """The encoder's stages in reverse; positions are doubled between two stages, patches come last."""

    def __init__(self, config: MMImageTokenizerConfig):
        super().__init__()
        widths = config.widths[::-1]
        self.stem = nn.Conv2d(config.code_width, widths[0], 3, padding=1)
        layers: list[nn.Module] = []
        for number, width in enumerate(widths):
            if number:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(widths[number - 1], width, 3, padding=1)]
            layers += [MMImageBlock(config, width) for _ in range(config.depth)]
        self.layers = nn.Sequential(*layers)
        self.norm = nn.GroupNorm(config.norm_groups, widths[-1], eps=config.norm_eps)
        self.patch_sides = config.patch_sides
        self.patches = nn.Conv2d(widths[-1], config.num_channels * math.prod(self.patch_sides), 3, padding=1)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """(B, d, h, w) -> (B, C, H, W), about 0..1."""
        patches = self.patches(self.norm(self.layers(self.stem(codes))))
        down, across = self.patch_sides
        rows, columns = patches.shape[-2:]
        pixels = patches.unflatten(1, (-1, down, across)).permute(0, 1, 4, 2, 5, 3)  # (B, C, h, down, w, across)
        return (pixels.reshape(len(codes), -1, rows * down, columns * across) + 1) / 2


class MMImageTokenizer(MMPreTrainedModel):
    """Pictures to ids of a codebook and back: `encode`, `decode`, and `forward`, which trains both.

    Args:
        config: see MMImageTokenizerConfig.
    """

    config: MMImageTokenizerConfig  # pyright: ignore[reportIncompatibleVariableOverride]: its own
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    _no_split_modules = ["MMImageBlock"]
    supports_gradient_checkpointing = False

    def __init__(self, config: MMImageTokenizerConfig):
        super().__init__(config)
        self.encoder, self.decoder = MMImageEncoder(config), MMImageDecoder(config)
        self.norm = MovingNorm(config.code_width)
        self.quantizer = QUANTIZERS[config.quantizer](config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):  # He et al. 2015: values keep their size through a rectifier
            init.normal_(module.weight, std=math.sqrt(2 / module.weight[0].numel()))
        if isinstance(module, MMImageBlock):
            init.zeros_(module.conv2.weight)
        if isinstance(module, MovingNorm | FiniteScalars | CodebookVectors):
            module.restore()

    @property
    def codebook_size(self) -> int:
        """Ids are below this."""
        return self.config.codebook_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.config.grid

    @property
    def tokens_per_image(self) -> int:
        """Ids of one picture."""
        return self.config.tokens_per_image

    @torch.no_grad()
    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Ids of pictures.

        Args:
            pixel_values: floating (B, C, H, W) of `image_size`, in 0..1; what is transparent belongs on white before.

        Returns: int64 (B, tokens_per_image), row by row, each in 0..codebook_size - 1.

        Raises: TypeError or ValueError for another type, shape, channel count or size, or values outside of 0..1.
        """
        self._check(pixel_values)
        moving = self.norm, self.quantizer
        were_training = [part.training for part in moving]
        try:
            for part in moving:
                part.eval()
            return self._quantized(pixel_values)[1].flatten(1)
        finally:
            for part, was_training in zip(moving, were_training, strict=True):
                part.train(was_training)

    @torch.no_grad()
    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        """Pictures of ids.

        Args:
            ids: int64 (B, tokens_per_image), as `encode` gives them.

        Returns: (B, C, H, W) of `image_size` in 0..1, in the model's dtype.

        Raises: TypeError for ids that are no int64 tensor; ValueError for another count, or ids outside of
            0..codebook_size - 1.
        """
        if not isinstance(ids, torch.Tensor) or ids.dtype != torch.long:
            raise TypeError(f"ids must be an int64 tensor; got {getattr(ids, 'dtype', type(ids).__name__)}")
        if ids.ndim != 2 or not len(ids) or ids.shape[1] != self.tokens_per_image:
            raise ValueError(f"ids must be (B, {self.tokens_per_image}), B at least 1; got {tuple(ids.shape)}")
        low, high = ids.aminmax()
        if low < 0 or high >= self.codebook_size:
            raise ValueError(f"ids must be in 0..{self.codebook_size - 1}; got {int(low)}..{int(high)}")
        codes = self.quantizer.codes(ids.unflatten(1, self.grid))
        return self._decoded(codes).clamp(0, 1)

    def forward(self, pixel_values: torch.Tensor, return_loss: bool = True) -> MMImageTokenizerOutput:
        """Encodes, quantizes and decodes; in training, the norm of codes and VQ's codebook move.

        loss = l1_weight mean|x - y| + l2_weight mean (x - y)^2 + commitment_weight commitment_loss, with pictures x
        and their reconstruction y. `mm.losses` has the perceptual and the adversarial loss, which need other networks.

        Args:
            pixel_values: as for `encode`.
            return_loss: False: no loss.

        Raises: as `encode`.
        """
        self._check(pixel_values)
        codes, ids, commitment = self._quantized(pixel_values)
        y = self._decoded(codes)
        loss = None
        if return_loss:
            error = y.float() - pixel_values.float()
            loss = self.config.l1_weight * error.abs().mean() + self.config.l2_weight * error.square().mean()
            loss = loss + self.config.commitment_weight * commitment
        return MMImageTokenizerOutput(loss=loss, reconstruction=y, ids=ids.flatten(1), commitment_loss=commitment)

    def _quantized(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, C, H, W) -> codes (B, h, w, d), ids (B, h, w), the commitment loss."""
        x = pixel_values.to(self.dtype, memory_format=torch.channels_last)
        encoded = self.encoder(x).permute(0, 2, 3, 1)
        # Rounding is done in fp32 at least: in 16 bits many positions would lie on a border between two codes.
        return self.quantizer(self.norm(encoded.to(torch.promote_types(encoded.dtype, torch.float32))))

    def _decoded(self, codes: torch.Tensor) -> torch.Tensor:
        """(B, h, w, d) -> (B, C, H, W)."""
        return self.decoder(codes.to(self.dtype).permute(0, 3, 1, 2))

    def _check(self, pixel_values: torch.Tensor) -> None:
        check_pixels(pixel_values, self.config.num_channels)
        sides = tuple(pixel_values.shape[2:])
        if sides != self.config.image_sides:
            height, width = self.config.image_sides
            raise ValueError(f"pixel_values are {sides[0]}x{sides[1]}; this tokenizer reads {height}x{width}")
        low, high = pixel_values.aminmax()
        if not (low >= 0 and high <= 1):  # nan too
            raise ValueError(f"pixel_values must be in 0..1; got {float(low):.4g}..{float(high):.4g}")
