"""The options of MM's image processors: their names and types, and the rules for their values."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from huggingface_hub.dataclasses import validate_typed_dict
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from transformers.image_utils import ChannelDimension
from transformers.processing_utils import ImagesKwargs

from .augment import PictureAugmentation
from .colours import rgb_colour
from .geometry import RESIZE_MODES
from .limits import check_choice

SAVED_BESIDE_OPTIONS = ("image_processor_type", "processor_class", "auto_map")


class MMImageProcessorKwargs(ImagesKwargs, total=False):
    """Options of MMImageProcessorPil in addition to those of every Transformers image processor.

    background: colour name or (red, green, blue) in 0..255 that shows through transparent pixels and around the
        cut-out content.
    do_crop_content: cut to the box of pixels that differ from the background, and pad that to a square.
    content_threshold: difference from the background, in 0..254 of any channel, up to which a pixel counts as such.
    content_margin: background added on each side of the square, as a share (0..1) of its side.
    do_convert_rgb: False reads only RGB pictures; others count as broken.
    do_draft: read large JPEG files at a half, quarter or eighth of their size: faster, but the pixels differ slightly.
    do_icc: convert by the colour profiles of files to sRGB.
    input_range: 255 for arrays of any type of number in 0..255; None or 1: floats are in 0..1.
    channel_order: "bgr" for arrays whose first channel is blue.
    resize_mode: "squash" to `size` in any of its forms; "crop" the middle of the aspect of `size`; "pad" with the
        background around the whole picture; "native" aspect, with as many patches as `max_patches` allows.
    patch_size, max_patches: of "native".
    augmentation: settings of a PictureAugmentation, kept for training: MMDataCollator(augment="saved") applies them,
        the image processor never does.
    """

    background: str | list[int] | tuple[int, ...]
    do_crop_content: bool
    content_threshold: int
    content_margin: float | int
    do_draft: bool
    do_icc: bool
    input_range: int | float | None
    channel_order: str
    resize_mode: str
    patch_size: int
    max_patches: int
    augmentation: dict[str, Any] | None


def check_types(options: dict[str, Any]) -> None:
    """Names and types of options, by MMImageProcessorKwargs. Raises TypeError or ValueError."""
    if not options:
        return
    unknown = sorted(set(options) - set(MMImageProcessorKwargs.__annotations__))
    if unknown:
        raise TypeError(f"unknown image option {unknown}; known are {sorted(MMImageProcessorKwargs.__annotations__)}")
    try:
        validate_typed_dict(MMImageProcessorKwargs, options)  # pyright: ignore[reportArgumentType]: it is a TypedDict
    except StrictDataclassError as fault:
        raise type(fault.__cause__ or ValueError())(f"image processor: {fault.__cause__ or fault}") from fault


def check_normalisation(options: Mapping[str, Any]) -> None:
    """Raises ValueError for numbers by which pixels would become NaN, infinite or all the same."""
    accepted = {
        "image_mean": ("finite numbers", lambda numbers: True),
        "image_std": ("finite numbers above 0", lambda numbers: (numbers > 0).all()),
        "rescale_factor": ("finite numbers other than 0", lambda numbers: (numbers != 0).all()),
    }
    for name, (words, fits) in accepted.items():
        if options.get(name) is None:
            continue
        numbers = np.asarray(options[name], dtype=np.float64)
        if not np.isfinite(numbers).all() or not fits(numbers):
            raise ValueError(f"{name}={options[name]!r}; accepted are {words}")


def check_options(options: dict[str, Any]) -> None:
    """Values of options. Raises ValueError with the option's name, the given value and the accepted ones."""
    rgb_colour(options["background"])
    if not isinstance(options["resample"], int) or options["resample"] not in [*Image.Resampling]:
        accepted = ", ".join(f"{one.value} ({one.name.lower()})" for one in Image.Resampling)
        raise ValueError(f"resample={options['resample']!r}; accepted are {accepted}")
    threshold, margin = options["content_threshold"], options["content_margin"]
    if not 0 <= threshold <= 254:
        raise ValueError(f"content_threshold={threshold}; accepted are 0..254")
    if not 0 <= margin <= 1:
        raise ValueError(f"content_margin={margin}; accepted are 0..1, a share of the square's side")
    for name in ("image_mean", "image_std"):
        if np.asarray(options[name]).size not in (1, 3):
            raise ValueError(f"{name}={options[name]!r}; accepted are one number or three")
    check_normalisation(options)
    for name in ("size", "crop_size"):
        sides = {} if options[name] is None else {side: n for side, n in dict(options[name]).items() if n is not None}
        if any(number < 1 for number in sides.values()):
            raise ValueError(f"{name}={sides}; accepted are whole numbers from 1")
    accepted = {"resize_mode": RESIZE_MODES, "channel_order": ("rgb", "bgr"), "input_range": (None, 1, 255)}
    for name, values in accepted.items():
        check_choice(name, options[name], values)
    for name in ("patch_size", "max_patches"):
        if options[name] < 1:
            raise ValueError(f"{name}={options[name]}; accepted are whole numbers from 1")
    if options["resize_mode"] == "native" and options["do_center_crop"]:
        raise ValueError("resize_mode='native' with do_center_crop=True: the crop would cut through patches")
    if options["augmentation"] is not None:
        PictureAugmentation(**options["augmentation"])  # raises for what it does not know
    if options["do_pad"]:
        raise ValueError("do_pad=True: all pictures get one size; set size or do_center_crop")
    if options["data_format"] not in (None, ChannelDimension.FIRST):
        raise ValueError(f"data_format={options['data_format']!r}: pixel_values are always channels first")
