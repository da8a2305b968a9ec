"""MMVisionConfig: a ViT."""

from typing import Any, Literal

from .base import MMStackConfig, checked
from .settings import setting


@checked
class MMVisionConfig(MMStackConfig):
    """A ViT: patches become tokens, with positions, then layers of (self-attention, MLP). The defaults are ViT-B/16.

    Source: Dosovitskiy et al. 2021 (arXiv:2010.11929); registers: Darcet et al. 2024 (arXiv:2309.16588).
    """

    model_type = "mm_vision"
    base_config_key = "vision_config"
    base_model_fsdp_plan = {"layers.*": "free_full_weight", "norm": "keep_full_weight"}

    image_size: int | list[int] | tuple[int, int] = setting(
        224, "size of a picture in pixels, or [height, width]", "MMVisionModel", values="multiples of patch_size"
    )
    patch_size: int = setting(16, "sides of a patch in pixels", "MMVisionModel", values="> 0")
    drop_partial_patches: bool = setting(
        False,
        "image_size need not be a multiple of patch_size; the pixels right of and below the last whole patch are not "
        "read, as in SigLIP so400m (384 pixels, patches of 14)",
        "MMVisionModel",
    )
    num_channels: int = setting(3, "channels of a picture", "MMVisionModel", values="> 0")
    patch_bias: bool = setting(True, "the patch embedding has a bias", "MMVisionModel")
    use_cls_token: bool = setting(True, "a learned CLS token before the patches", "MMVisionModel")
    num_register_tokens: int = setting(
        0, "learned tokens without a position after CLS", "MMVisionModel", values=">= 0"
    )
    use_mask_token: bool = setting(
        False, "a learned vector takes the place of the patches in bool_masked_pos", "MMVisionModel"
    )
    position_embedding_type: Literal["absolute", "none"] = setting(  # pyright: ignore[reportIncompatibleVariableOverride]: fewer than a stack takes
        "absolute", "one learned position per patch, and for CLS; or none", "MMVisionModel"
    )
    position_resampling: Literal["bicubic", "bilinear"] = setting(
        "bicubic",
        "how learned positions fit another number of patches; bilinear with antialiasing is SigLIP 2's with NaFlex",
        "MMVisionModel",
    )
    max_tiles: int = setting(
        0,
        "so many tiles of a picture are read together, each with a learned place; image_grids says how they stand "
        "(Llama 3.2 Vision); 0: each picture by itself",
        "MMVisionModel",
        values=">= 0",
    )
    num_global_layers: int = setting(
        0, "with max_tiles: gated layers over all tiles, after the norm of the others", "MMVisionModel", values=">= 0"
    )
    feature_layers: list[int] | None = setting(
        None,
        "with max_tiles: layers whose states stand beside the last in each token, which is as many times wider",
        "MMVisionModel",
    )

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

    @property
    def tile_arrangements(self) -> list[tuple[int, int]]:
        """Rows and columns of at most max_tiles tiles, in the order of their numbers."""
        sides = range(1, self.max_tiles + 1)
        return [(rows, columns) for rows in sides for columns in sides if rows * columns <= self.max_tiles]

    @property
    def token_size(self) -> int:
        """Width of a token that the tower gives."""
        return self.hidden_size * (1 + len(self.feature_layers or []))

    def faults(self) -> list[str]:
        faults = super().faults() + self._size_faults() + self._tile_faults()
        if self.pooler in ("cls", "cls_tanh") and not self.use_cls_token:
            faults.append(f"pooler={self.pooler!r} reads the CLS token, but use_cls_token=False; use pooler='mean'")
        if self.pooler in ("eos", "highest_id", "last", "before_last"):
            faults.append(f"pooler={self.pooler!r} is for text; use 'cls', 'cls_tanh', 'mean', 'attention' or 'none'")
        return faults

    def _tile_faults(self) -> list[str]:
        if self.max_tiles < 1:
            given = [name for name in ("num_global_layers", "feature_layers") if getattr(self, name)]
            return [f"{name}={getattr(self, name)} is only for tiles read together; set max_tiles" for name in given]
        faults, last = [], self.num_hidden_layers - 1
        if any(not 0 <= layer <= last for layer in self.feature_layers or []):
            faults.append(f"feature_layers={self.feature_layers} must be layers of 0..{last}")
        wanted = {
            "use_cls_token": True, "num_register_tokens": 0, "use_mask_token": False, "pooler": "none",
            "position_embedding_type": "absolute", "norm_position": "pre", "final_norm": "all",
            "drop_partial_patches": False,
        }  # fmt: skip
        return faults + [
            f"max_tiles={self.max_tiles} needs {name}={value!r}; {name}={getattr(self, name)!r}"
            for name, value in wanted.items()
            if getattr(self, name) != value
        ]

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
