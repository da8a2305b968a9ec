"""MMConvConfig: a convolutional vision tower whose feature map becomes tokens."""

from typing import Any, Literal

from transformers.activations import ACT2FN

from .base import MMBaseConfig, checked, nearest
from .settings import setting

# The blocks, and the `expansion` of a stage that does not give it; 1: the block has none.
EXPANSIONS = {"plain": 1, "residual": 1, "bottleneck": 4, "inverted": 6}

RESNET50_STEM = {"channels": 64, "kernel_size": 7, "stride": 2, "pool": 3}
RESNET50_STAGES = [
    {"block": "bottleneck", "depth": 3, "channels": 256, "stride": 1},
    {"block": "bottleneck", "depth": 4, "channels": 512, "stride": 2},
    {"block": "bottleneck", "depth": 6, "channels": 1024, "stride": 2},
    {"block": "bottleneck", "depth": 3, "channels": 2048, "stride": 2},
]

_STEM_DEFAULTS = {"kernel_size": 3, "stride": 1, "pool": 0}
_STAGE_DEFAULTS = {"depth": 1, "stride": 1, "kernel_size": 3, "pool": 0}
_OPTIONAL = ("squeeze",)  # saved only where it is given
_STEM_KEYS = ("channels", *_STEM_DEFAULTS)
_STAGE_KEYS = ("block", "channels", "expansion", *_STAGE_DEFAULTS)
_DERIVED = ("hidden_size", "total_stride", "grid_size")


@checked
class MMConvConfig(MMBaseConfig):
    """A stem, stages of convolutional blocks and a head; each position of the feature map is one token.

    The defaults are ResNet-50 (He et al. 2015, arXiv:1512.03385; stride in the 3x3 convolution). Blocks: "plain"
    (VGG), "residual" (ResNet-18), "bottleneck" (ResNet-50), "inverted" (MobileNetV2, EfficientNet-Lite: expand,
    depthwise, project). A stage's `stride` is that of its first block; `pool` is the window of a max pooling with
    stride 2 after the stem or the stage, 0 for none; `expansion` is channels / inner width of a bottleneck and
    inner width / input channels of an inverted block; `squeeze` of inverted blocks is input channels / width of
    squeeze-and-excitation (4 in EfficientNet), left out for none. Other keys that are left out are filled in and
    saved.
    """

    model_type = "mm_conv"
    base_config_key = "vision_config"
    base_model_fsdp_plan = {"stages.*": "free_full_weight"}

    image_size: int = setting(224, "sides of a picture in pixels", "MMConvModel", values="> 0")
    num_channels: int = setting(3, "channels of a picture", "MMConvModel", values="> 0")
    stem: dict | None = setting(
        None, "{channels, kernel_size, stride, pool}; None: ResNet-50's, or no stem if stages are given", "MMConvModel"
    )
    stages: list[dict] | None = setting(
        None,
        "a list of {block, depth, channels, stride, kernel_size, expansion, pool, squeeze}; None: ResNet-50's",
        "MMConvModel",
    )
    head_channels: int | None = setting(
        None, "width of a last 1x1 convolution; None: there is none", "MMConvModel", values="> 0"
    )
    hidden_act: str = setting(
        "relu",
        "activation; relu6 is EfficientNet-Lite's",
        "MMConvModel",
        values="a name of transformers.activations.ACT2FN",
    )
    padding: Literal["symmetric", "same"] = setting(
        "symmetric", "same is TensorFlow's: an odd pixel goes to the bottom and the right", "MMConvModel"
    )
    batch_norm: bool = setting(True, "False: every convolution has a bias instead", "MMConvModel")
    conv_bias: bool = setting(
        False, "convolutions with a batch norm have a bias too, as in VGG with batch norm", "MMConvModel"
    )
    batch_norm_eps: float = setting(1e-5, "added to the variance in batch norm", "MMConvModel", values="> 0")
    frozen_batch_norm: bool = setting(
        True, "running statistics and affine parameters never change, not even in training", "MMConvModel"
    )
    position_embedding_type: Literal["absolute", "none"] = setting(
        "absolute", "a learned row plus a learned column, or none", "MMConvModel"
    )
    pooler: Literal["mean", "none"] = setting(
        "mean", "which one vector stands for all tokens (pooler_output)", "MMConvModel"
    )
    initializer_range: float = setting(
        0.02, "standard deviation of the initial position embeddings", "MMConvModel", values="> 0"
    )

    def __post_init__(self, **kwargs: Any):
        derived = [name for name in _DERIVED if name in kwargs]
        if derived:
            raise ValueError(f"{derived[0]} cannot be set: it follows from stem, stages and head_channels")
        if self.stages is None:
            self.stem = RESNET50_STEM if self.stem is None else self.stem
            self.stages = RESNET50_STAGES
        if isinstance(self.stem, dict):
            self.stem = {**_STEM_DEFAULTS, **self.stem}
        if isinstance(self.stages, list):
            self.stages = [_filled(stage) if isinstance(stage, dict) else stage for stage in self.stages]
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of the tokens: the head's, or else the last stage's."""
        return self.head_channels or self._parts()[-1]["channels"]

    @property
    def total_stride(self) -> int:
        """Pixels between two neighbouring tokens."""
        stride = 1
        for part in self._parts():
            stride *= part["stride"] * (2 if part["pool"] else 1)
        return stride

    @property
    def grid_size(self) -> int:
        """Tokens along one side of a picture of `image_size`."""
        return self.grid(self.image_size)

    def grid(self, size: int) -> int:
        """Tokens along a side of `size` pixels: convolutions and odd pooling windows round up, even windows down."""
        for part in self._parts():
            size = -(-size // part["stride"])
            if part["pool"]:
                rounds_up = part["pool"] % 2 == 1 or self.padding == "same"
                size = (size + 1) // 2 if rounds_up else size // 2
        return size

    def _parts(self) -> list[dict]:
        return ([] if self.stem is None else [self.stem]) + (self.stages or [])

    def faults(self) -> list[str]:
        faults = super().faults()
        if self.hidden_act not in ACT2FN:
            faults.append(f"hidden_act={self.hidden_act!r} is not an activation{nearest(self.hidden_act, ACT2FN)}")
        parts = [] if self.stem is None else _part_faults("stem", self.stem, _STEM_KEYS)
        for number, stage in enumerate(self.stages or []):
            parts += _block_faults(f"stages[{number}]", stage)
        if not self.stages:
            parts.append("stages=[] has no stage; leave it out for ResNet-50's, or list at least one")
        if not parts and 0 < self.image_size < self.total_stride:
            parts.append(
                f"image_size={self.image_size} is smaller than the total stride {self.total_stride} of stem and "
                f"stages; use at least {self.total_stride} or smaller strides"
            )
        return faults + parts


def _filled(stage: dict) -> dict:
    """The stage with every key."""
    return {**_STAGE_DEFAULTS, "expansion": EXPANSIONS.get(str(stage.get("block")), 1), **stage}


def _block_faults(name: str, stage: dict) -> list[str]:
    """The broken rules of one stage."""
    block = stage.get("block")
    if block not in EXPANSIONS:
        accepted = f"{', '.join(EXPANSIONS)}{nearest(str(block), EXPANSIONS)}"
        return [f"{name}: block={block!r} is not known; accepted: {accepted}"]
    faults = _part_faults(name, stage, _STAGE_KEYS, _OPTIONAL)
    if faults:
        return faults
    if "squeeze" in stage and block != "inverted":
        faults.append(f"{name}: squeeze={stage['squeeze']} is of inverted blocks; leave it out for block={block!r}")
    expansion, channels = stage["expansion"], stage["channels"]
    if EXPANSIONS[block] == 1 and expansion != 1:
        faults.append(f"{name}: expansion={expansion} has no effect for block={block!r}; leave it out")
    if block == "bottleneck" and channels % expansion:
        faults.append(f"{name}: channels={channels} is not a multiple of expansion={expansion}")
    return faults


def _part_faults(name: str, part: dict, keys: tuple[str, ...], optional: tuple[str, ...] = ()) -> list[str]:
    """Unknown keys, and numbers out of range, of a stem or a stage."""
    faults = [
        f"{name} has an unknown key {key!r}{nearest(str(key), keys)}; accepted: {', '.join((*keys, *optional))}"
        for key in part
        if key not in (*keys, *optional)
    ]
    for key in (*keys, *(key for key in optional if key in part)):
        if key == "block":
            continue
        if key not in part:
            faults.append(f"{name}: {key} is missing")
            continue
        value, least = part[key], 0 if key == "pool" else 1
        if type(value) is not int or value < least:
            faults.append(f"{name}: {key}={value!r} must be a whole number, at least {least}")
        elif key == "depth" and value > 1000:
            faults.append(f"{name}: depth={value} must be at most 1000")
        elif key == "kernel_size" and value % 2 == 0:
            faults.append(f"{name}: kernel_size={value} must be odd")
        elif key == "pool" and value == 1:
            faults.append(f"{name}: pool=1 has no effect; use 0 for no pooling, or a window of 2 or more")
    return faults
