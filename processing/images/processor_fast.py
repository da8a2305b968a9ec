"""The image processor on tensors, where torchvision is installed: the same options, sizes and masks.

Pictures are read, and cut to their content, as `MMImageProcessorPil` does it; resizing and normalising run on tensors,
on any device. Pixels differ from Pillow's by rounding: by one level of 255 for most, by a few at sharp edges.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_backends import TorchvisionBackend
from transformers.utils.import_utils import is_torchvision_available

from .geometry import cut_to_content, fit
from .load import rgb_colour
from .options import MMImageProcessorKwargs as MMImageProcessorKwargs  # found in this module by Transformers, too
from .processor import PictureOptions, batch_size, patch_mask


class MMImageProcessor(PictureOptions, TorchvisionBackend):
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

    def _shaped(
        self,
        image: Image.Image,
        *,
        background,
        do_crop_content,
        content_threshold,
        content_margin,
        do_resize,
        resize_mode,
        size,
        resample,
        do_center_crop,
        crop_size,
        patch_size,
        max_patches,
        device=None,
        **others,
    ) -> torch.Tensor:
        """uint8 (3, H, W)."""
        colour = rgb_colour(background)
        if do_crop_content:
            image = cut_to_content(image, colour, content_threshold, content_margin)
        pixels = torch.from_numpy(np.array(image)).to(device or "cpu").permute(2, 0, 1)
        if do_resize:
            box, target, canvas = fit(image.size, resize_mode, size, patch_size, max_patches)
            pixels = _resized(pixels[:, box[1] : box[3], box[0] : box[2]], target, resample)
            if canvas is not None:
                corner = (canvas[0] - pixels.shape[2]) // 2, (canvas[1] - pixels.shape[1]) // 2
                pixels = _placed(pixels, corner, canvas, colour)
        if not do_center_crop:
            return pixels
        cut = crop_size.width, crop_size.height
        corner = -((pixels.shape[2] - cut[0]) // 2), -((pixels.shape[1] - cut[1]) // 2)
        return _placed(pixels, corner, cut, (0, 0, 0))

    def _preprocess(
        self,
        images: list[torch.Tensor | None],
        *,
        resize_mode,
        do_resize,
        patch_size,
        do_rescale,
        rescale_factor,
        do_normalize,
        image_mean,
        image_std,
        return_tensors,
        **others,
    ) -> BatchFeature:
        native = do_resize and resize_mode == "native"
        sizes = [(0, 0) if image is None else (image.shape[2], image.shape[1]) for image in images]
        width, height = batch_size(sizes, ragged=native)
        device = next(image.device for image in images if image is not None)
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=device).reshape(-1, 1, 1)
            for values in ((image_mean, image_std) if do_normalize else (0.0, 1.0))
        )
        factor, offset = (rescale_factor if do_rescale else 1.0) / std, mean / std
        whole = not (do_rescale or do_normalize)  # pixels as they are
        dtype = torch.uint8 if whole else torch.float32
        pixel_values = torch.zeros(len(images), 3, height, width, dtype=dtype, device=device)
        for target, image in zip(pixel_values, images, strict=True):
            if image is not None:
                target[:, : image.shape[1], : image.shape[2]] = image if whole else image * factor - offset
        data: dict[str, Any] = {"pixel_values": pixel_values}
        if native:
            data["pixel_attention_mask"] = torch.from_numpy(patch_mask(sizes, patch_size)).to(device)
        return BatchFeature(data, tensor_type=return_tensors)


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
