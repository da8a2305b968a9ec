"""Reading pictures: one door for every kind of source, so that the same picture always gives the same pixels.

    path | bytes | file object | data URL | URL on demand ── allow-listed formats, limits from the header ┐
    PIL image ────────────────────────────────────────────────────────────────────────────────────────────┼─ upright
    numpy array | torch tensor ── layout and range checked ───────────────────────────────────────────────┘  RGB

Reads the first frame or page of a file, and the current frame of a PIL image.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from .arrays import image_from_array
from .colours import Colour, check_mode, on_background, rgb_colour, upright_rgb
from .geometry import Box
from .limits import (
    FORMATS,
    MAX_BATCH_PIXELS,
    MAX_BYTES,
    MAX_PIXELS,
    ON_ERROR,
    MediaDecodeError,
    MediaNotFoundError,
    PixelBudget,
    allowed_pixels,
    check_choice,
    check_pixels,
    check_switch,
    decoding,
)
from .odd_files import as_in_its_file, key_as_alpha, opened_picture
from .region import Region
from .sources import opened
from .urls import MAX_URL_BYTES

__all__ = [
    "FORMATS", "MAX_PIXELS", "Colour", "MediaDecodeError", "MediaNotFoundError", "PictureReader", "flat_pictures",
    "load_image", "rgb_colour",
]  # fmt: skip

logger = logging.getLogger(__name__)


def load_image(
    source: Any,
    *,
    background: Colour = "white",
    input_data_format: str | None = None,
    input_range: int | float | None = None,
    channel_order: str = "rgb",
    use_icc: bool = False,
    convert_rgb: bool = True,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    draft_size: int | None = None,
    allow_urls: bool = False,
    budget: PixelBudget | None = None,
    box_of: Callable[[tuple[int, int]], Box] | None = None,
    enough: tuple[int, int] | None = None,
    content_of: Callable[[Image.Image], Box] | None = None,
) -> Image.Image:
    """Read one picture as an upright RGB image with 8 bits per channel.

    Args:
        source: path (str or path-like), bytes, binary file object, data URL (data:image/...;base64,...), PIL image,
            numpy array or torch tensor. Arrays are (H, W), (H, W, C) or (C, H, W) with C of 1, 3, 4: uint8 in 0..255,
            uint16 in 0..65535, floats in 0..1, bool as a mask.
        background: what shows through transparent pixels: a colour name or (red, green, blue) in 0..255.
        input_data_format: "channels_first" or "channels_last" for 3-D arrays; None finds out where that is certain.
        input_range: 255 for arrays of any type of number in 0..255.
        channel_order: "bgr" for arrays whose first channel is blue.
        use_icc: convert by the colour profile in the file to sRGB. A broken profile is ignored.
        convert_rgb: False takes pictures that are RGB as they come, and no others.
        max_pixels: width x height allowed, checked before the pixels are decoded; half of it for WebP, AVIF and
            progressive JPEG, whose decoders hold a picture several times over.
        max_bytes: size allowed of a file, of bytes, or of what a data URL holds.
        draft_size: decode a JPEG file at a half, quarter or eighth of its size, as long as both sides keep at least
            this many pixels. Much faster, and not quite the pixels of a full decode. None decodes in full.
        allow_urls: fetch http(s) URLs, only from public addresses (`mm.processing.images.urls.fetch`).

        budget: pixels that are left for all pictures of a call.
        box_of: of (width, height) of the upright picture, the box (left, top, right, bottom) that is kept of it.
        enough: (width, height) that this box is resized to later: a larger one comes shrunk to twice that, of a JPEG
            file that was decoded at a half, quarter or eighth where that will do.
        content_of: of what the box keeps, the box that is resized to `enough`; the file is then decoded in full.

    Returns:
        The image. A PIL image that is already RGB and upright is returned itself, not a copy.

    Raises:
        MediaDecodeError (a ValueError): broken, too large, of a format outside `FORMATS`, NaN, a URL that fails.
        MediaNotFoundError (a MediaDecodeError and a FileNotFoundError): no file at that path.
        ValueError: a URL without allow_urls, an unknown colour, an array of a shape, type or range not accepted.
        TypeError: a source of another type.
    """
    for name, value in (("use_icc", use_icc), ("convert_rgb", convert_rgb), ("allow_urls", allow_urls)):
        check_switch(name, value)
    colour = rgb_colour(background)
    region = Region(box_of, enough, content_of)
    if isinstance(source, Image.Image):
        with decoding("the PIL image") as known:
            known["format"] = source.format
            check_pixels(source.width, source.height, max_pixels, budget)
            check_mode(source, convert_rgb)
            with as_in_its_file(source) as image:
                return region.of(upright_rgb(image, colour, use_icc=use_icc, own=image is not source))
    if isinstance(source, (np.ndarray, torch.Tensor)):
        image = image_from_array(
            source,
            input_data_format,
            input_range=input_range,
            channel_order=channel_order,
            max_pixels=max_pixels,
            budget=budget,
        )
        check_mode(image, convert_rgb)
        return region.of(on_background(image, colour, own=True))
    with opened(source, "picture", max_bytes, allow_urls, MAX_URL_BYTES) as (file, name), decoding(name) as known:
        with opened_picture(file) as image:
            known["format"] = image.format
            check_pixels(image.width, image.height, allowed_pixels(image, max_pixels), budget)
            check_mode(image, convert_rgb)
            if draft_size is not None:
                image.draft(None, (draft_size, draft_size))
            else:
                region.draft(image)
            upright = upright_rgb(key_as_alpha(image, file), colour, use_icc=use_icc, own=True)
            upright.info = {}
            return region.of(upright)


class PictureReader:
    """Reads the pictures of one call: under one policy for bad ones, which it counts, and one budget of pixels.

    Args:
        on_error: for a picture that is missing or broken: "raise" raises an error; "skip" and "placeholder" give None.
        max_batch_pixels: width x height allowed of all pictures together. More raises whatever `on_error` is.
        options: of `load_image`.

    Attributes:
        faults: an error for each picture that gave None; their number is the count.
    """

    def __init__(self, on_error: str = "raise", max_batch_pixels: int = MAX_BATCH_PIXELS, **options: Any):
        check_choice("on_error", on_error, ON_ERROR)
        self.on_error = on_error
        self.budget = PixelBudget(max_batch_pixels)
        self.options = options
        self.faults: list[MediaDecodeError] = []

    def read(self, source: Any, index: int | str, load: Callable[..., Image.Image] = load_image) -> Image.Image | None:
        """One picture. Errors are those of `load_image` and say where it was: a number, or "images[1][0]"."""
        place = f"images[{index}]" if isinstance(index, int) else index
        try:
            return load(source, budget=self.budget, **self.options)
        except MediaDecodeError as fault:
            located = fault.at(index)
            if self.on_error == "raise" or self.budget.is_overspent:
                raise located from fault
            self.faults.append(located)
            logger.warning("%s (on_error=%r)", located, self.on_error)
            return None
        except (TypeError, ValueError) as fault:
            kind = TypeError if isinstance(fault, TypeError) else ValueError
            raise kind(f"{place}: {fault}") from fault


def flat_pictures(images: Any) -> list:
    """The single pictures in `images`: one picture, a (B, ...) array of them, or lists of these, nested or not."""
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        return list(images)
    if isinstance(images, (list, tuple)):
        return [picture for entry in images for picture in flat_pictures(entry)]
    return [images]


def is_frames(video: Any) -> bool:
    """Whether `video` is one video given as its frames: a list of PIL images or of arrays, or an array of frames."""
    if isinstance(video, (np.ndarray, torch.Tensor)):
        return video.ndim in (3, 4)
    frames = isinstance(video, (list, tuple)) and len(video) > 0
    return frames and all(
        isinstance(frame, Image.Image) or (isinstance(frame, (np.ndarray, torch.Tensor)) and frame.ndim in (2, 3))
        for frame in video
    )
