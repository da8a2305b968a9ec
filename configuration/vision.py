"""Vision towers: MMVisionConfig, a ViT, and MMConvConfig, a convolutional network."""

from typing import Literal

from .stack import MMStackConfig, checked, positive


@checked
class MMVisionConfig(MMStackConfig):
    """A ViT: patches to tokens, positions, then layers of [self, mlp]. Defaults are ViT-B/16 at 224 pixels.

    Source: Dosovitskiy et al. 2021 (arXiv:2010.11929); registers: Darcet et al. 2024 (arXiv:2309.16588).
    """

    model_type = "mm_vision"
    base_config_key = "vision_config"
    base_model_fsdp_plan = {"layers.*": "free_full_weight", "norm": "keep_full_weight"}

    image_size: int = 224  # pixels, a multiple of patch_size
    patch_size: int = 16  # pixels
    num_channels: int = 3
    patch_bias: bool = True
    use_cls_token: bool = True
    num_register_tokens: int = 0  # learned tokens without a position, placed after CLS
    use_mask_token: bool = False  # a learned vector instead of the patches that bool_masked_pos names
    position_embedding_type: Literal["absolute", "none"] = "absolute"

    @property
    def grid_size(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    def faults(self) -> list[str]:
        faults = super().faults() + positive(self, "image_size", "patch_size", "num_channels")
        size, patch = self.image_size, self.patch_size
        if size > 0 and patch > 0 and size % patch:
            near = max(size // patch, 1) * patch
            faults.append(f"image_size={size} is not a multiple of patch_size={patch}; use {near}")
        if self.num_register_tokens < 0:
            faults.append(f"num_register_tokens={self.num_register_tokens} must not be negative")
        if self.pooler in ("cls", "cls_tanh") and not self.use_cls_token:
            faults.append(f"pooler={self.pooler!r} reads the CLS token, but use_cls_token=False; use pooler='mean'")
        if self.pooler in ("eos", "last", "before_last"):
            faults.append(f"pooler={self.pooler!r} is for text; use 'cls', 'cls_tanh', 'mean', 'attention' or 'none'")
        return faults
