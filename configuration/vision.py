"""Vision towers: MMVisionConfig, a ViT, and MMConvConfig, a convolutional network."""

from typing import Any, Literal

from .base import MMStackConfig, checked, positive


@checked
class MMVisionConfig(MMStackConfig):
    """A ViT: patches to tokens, positions, then layers of [self, mlp]. Defaults are ViT-B/16 at 224 pixels.

    Source: Dosovitskiy et al. 2021 (arXiv:2010.11929); registers: Darcet et al. 2024 (arXiv:2309.16588).
    """

    model_type = "mm_vision"
    base_config_key = "vision_config"
    base_model_fsdp_plan = {"layers.*": "free_full_weight", "norm": "keep_full_weight"}

    image_size: int | list[int] | tuple[int, int] = 224  # pixels, or [height, width]; multiples of patch_size
    patch_size: int = 16  # pixels
    # Pictures whose sides are no multiples have what is right of and below the last whole patch left unseen: weights
    # like SigLIP so400m's (384 pixels, patches of 14) were trained so.
    drop_partial_patches: bool = False
    num_channels: int = 3
    patch_bias: bool = True
    use_cls_token: bool = True
    num_register_tokens: int = 0  # learned tokens without a position, placed after CLS
    use_mask_token: bool = False  # a learned vector instead of the patches that bool_masked_pos names
    position_embedding_type: Literal["absolute", "none"] = "absolute"

    def __post_init__(self, **kwargs: Any):
        if isinstance(self.image_size, tuple):
            self.image_size = list(self.image_size)  # as JSON has it
        super().__post_init__(**kwargs)

    @property
    def image_sides(self) -> tuple[int, int]:
        """Height and width of a picture, pixels."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.image_sides
        return height // self.patch_size, width // self.patch_size

    def faults(self) -> list[str]:
        faults = super().faults() + positive(self, "patch_size", "num_channels") + self._size_faults()
        if self.num_register_tokens < 0:
            faults.append(f"num_register_tokens={self.num_register_tokens} must not be negative")
        if self.pooler in ("cls", "cls_tanh") and not self.use_cls_token:
            faults.append(f"pooler={self.pooler!r} reads the CLS token, but use_cls_token=False; use pooler='mean'")
        if self.pooler in ("eos", "highest_id", "last", "before_last"):
            faults.append(f"pooler={self.pooler!r} is for text; use 'cls', 'cls_tanh', 'mean', 'attention' or 'none'")
        return faults

    def _size_faults(self) -> list[str]:
        size, patch = self.image_size, self.patch_size
        sides = [size, size] if isinstance(size, int) else size
        if len(sides) != 2 or min(sides) <= 0:
            return [f"image_size={size} must be positive, one number or [height, width]"]
        if patch <= 0:
            return []
        if min(sides) < patch or (not self.drop_partial_patches and any(side % patch for side in sides)):
            near = [max(side // patch, 1) * patch for side in sides]
            known = near[0] if isinstance(size, int) else near
            return [f"image_size={size} is not a multiple of patch_size={patch}; use {known}"]
        return []
