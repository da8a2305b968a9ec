"""The image processor on tensors, where torchvision is installed: the same options, sizes and masks.

Pictures are read, and cut to their content, as `MMImageProcessorPil` does it; resizing and normalising run on tensors,
on any device. Pixels differ from Pillow's by rounding: by one level of 255 for most, by a few at sharp edges.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import TorchvisionBackend
from transformers.utils.import_utils import is_torchvision_available

from .geometry import fit
from .load import rgb_colour
from .options import MMImageProcessorKwargs as MMImageProcessorKwargs  # found in this module by Transformers, too
from .processor import Numbers, PictureOptions


class MMImageProcessor(PictureOptions, TorchvisionBackend):  # pyright: ignore[reportIncompatibleMethodOverride]: ours reads
    """MMImageProcessorPil's twin on torchvision. `device=` of a call says where pictures are resized.

    Raises ImportError where torchvision is not installed; AutoImageProcessor then takes MMImageProcessorPil.
    """

    def __init__(self, **kwargs: Any):
        if not is_torchvision_available():
            raise ImportError(
                "MMImageProcessor needs torchvision, which is not installed: pip install '.[fast]', "
                "or take MMImageProcessorPil, which reads the same files"
            )
        super().__init__(**kwargs)

    def _shaped(self, picture: Image.Image, options: dict[str, Any]) -> torch.Tensor:
        """uint8 (3, H, W)."""
        picture = self._cut(picture, options)
        pixels = torch.from_numpy(np.array(picture)).to(options.get("device") or "cpu").permute(2, 0, 1)
        if options["do_resize"]:
            shape = options["resize_mode"], options["size"], options["patch_size"], options["max_patches"]
            box, target, canvas = fit(picture.size, *shape)
            pixels = _resized(pixels[:, box[1] : box[3], box[0] : box[2]], target, options["resample"])
            if canvas is not None:
                corner = (canvas[0] - pixels.shape[2]) // 2, (canvas[1] - pixels.shape[1]) // 2
                pixels = _placed(pixels, corner, canvas, rgb_colour(options["background"]))
        if not options["do_center_crop"]:
            return pixels
        cut = options["crop_size"].width, options["crop_size"].height
        corner = -((pixels.shape[2] - cut[0]) // 2), -((pixels.shape[1] - cut[1]) // 2)
        return _placed(pixels, corner, cut, (0, 0, 0))

    def _size(self, shape: torch.Tensor) -> tuple[int, int]:
        return shape.shape[2], shape.shape[1]

    def _pixel_values(
        self, shapes: list[torch.Tensor | None], size: tuple[int, int], numbers: Numbers
    ) -> torch.Tensor:
        device = next(shape.device for shape in shapes if shape is not None)
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=device).reshape(-1, 1, 1)
            for values in (numbers.mean, numbers.std)
        )
        factor, offset = numbers.scale / std, mean / std
        dtype = torch.uint8 if numbers.as_bytes else torch.float32
        pixel_values = torch.zeros(len(shapes), 3, size[1], size[0], dtype=dtype, device=device)
        for target, shape in zip(pixel_values, shapes, strict=True):
            if shape is not None:
                pixels = shape if numbers.as_bytes else shape * factor - offset
                target[:, : shape.shape[1], : shape.shape[2]] = pixels
        return pixel_values


def _resized(pixels: torch.Tensor, size: tuple[int, int], resample: int) -> torch.Tensor:
    """uint8 (3, H, W) at (width, height), by torchvision."""
    from torchvision.transforms.v2 import functional  # pyright: ignore[reportMissingImports]: optional
    from transformers.image_utils import pil_torch_interpolation_mapping

    mode = pil_torch_interpolation_mapping[resample]  # pyright: ignore[reportOptionalSubscript]: there with torchvision
    return functional.resize(pixels, [size[1], size[0]], interpolation=mode, antialias=True)


def _placed(
    pixels: torch.Tensor, corner: tuple[int, int], size: tuple[int, int], colour: tuple[int, int, int]
) -> torch.Tensor:
    """uint8 (3, H, W) on a canvas of (width, height) and `colour`, its top left at `corner`, which may be outside."""
    (left, top), (width, height) = corner, size
    canvas = torch.tensor(colour, dtype=torch.uint8, device=pixels.device).view(3, 1, 1).repeat(1, height, width)
    part = pixels[:, max(0, -top) : height - top, max(0, -left) : width - left]
    left, top = max(0, left), max(0, top)
    canvas[:, top : top + part.shape[1], left : left + part.shape[2]] = part
    return canvas
