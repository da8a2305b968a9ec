"""From pictures to pixel_values.

    load ── cut to the content ── resize ── centre crop ── rescale and normalise
    └───────────── Pillow, RGB, 8 bits ──────────────┘     (n, 3, H, W) float32, one buffer

Neither torchvision nor any other processor class is needed.
"""

from typing import Any

import numpy as np
import torch
from huggingface_hub.dataclasses import validate_typed_dict
from huggingface_hub.errors import StrictDataclassError
from PIL import Image, ImageChops
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.image_utils import (
    ChannelDimension,
    PILImageResampling,
    SizeDict,
    get_image_size_for_max_height_width,
)
from transformers.processing_utils import ImagesKwargs
from transformers.utils.constants import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD

from .media import MAX_PIXELS, MediaDecodeError, flat_pictures, load_image, rgb_colour

# A thin strip padded to a square has the square of its length in pixels: longer contents are shrunk to this first.
LARGEST_SQUARE = 4096

SAVED_BESIDE_OPTIONS = ("image_processor_type", "processor_class", "auto_map")


class MMImageProcessorKwargs(ImagesKwargs, total=False):
    """Options of MMImageProcessorPil beside those of every Transformers image processor.

    background: colour name or (red, green, blue) in 0..255 behind transparent pixels and around the cut-out content.
    do_crop_content: cut to the box of pixels that differ from the background, and pad that to a square.
    content_threshold: difference from the background, in 0..254 of any channel, up to which a pixel counts as such.
    content_margin: background added on each side of the square, as a share (0..1) of its side.
    do_draft: read large JPEG files at a half, quarter or eighth of their size: faster, and not quite the same pixels.
    """

    background: str | list[int] | tuple[int, ...]
    do_crop_content: bool
    content_threshold: int
    content_margin: float | int
    do_draft: bool


class MMImageProcessorPil(PilBackend):
    """Pictures of any source as pixel_values (n, 3, H, W), float32; by default 224 x 224 and in -1..1.

    The same picture gives the same pixels whether it comes as path, bytes, file object, PIL image, array or tensor:
    `mm.processing.media.load_image` says how each is read. Every option is an attribute, saved with the processor,
    and may be overridden in a call.
    """

    valid_kwargs = MMImageProcessorKwargs

    do_convert_rgb = True
    do_resize = True
    size = {"height": 224, "width": 224}
    resample = PILImageResampling.BICUBIC
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = IMAGENET_STANDARD_MEAN
    image_std = IMAGENET_STANDARD_STD
    background = "white"
    do_crop_content = False
    content_threshold = 8
    content_margin = 0.0
    do_draft = False

    def __init__(self, **kwargs: Any):
        _check_types({name: value for name, value in kwargs.items() if name not in SAVED_BESIDE_OPTIONS})
        super().__init__(**kwargs)
        _check_options(self._options({}))

    def _options(self, given: dict[str, Any]) -> dict[str, Any]:
        """Every option of a call: those given, the processor's own for the rest."""
        own = {name: getattr(self, name) for name in self._valid_kwargs_names}
        return self._standardize_kwargs(**(own | given))

    def load(self, source: Any, **options: Any) -> Image.Image:
        """One picture as this processor reads it before any geometry: upright RGB. Errors as `load_image` raises."""
        _check_types(options)
        return self.process_image(source, **self._options(options))

    def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """Pictures to pixel_values (n, 3, H, W).

        Args:
            images: one picture, an array (n, ...) of pictures, or a list of these; nested lists are flattened.
            kwargs: options (see MMImageProcessorKwargs) that override the processor's, and
                return_tensors: "pt", "np" or None (a numpy array).

        Raises:
            ValueError, TypeError: no pictures, or an option or a source that is not accepted.
            MediaDecodeError: a broken file. FileNotFoundError: no file at a path.
        """
        _check_types(kwargs)
        _check_options(self._options(kwargs))
        return super().preprocess(images, *args, **kwargs)

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list:
        pictures = flat_pictures(images)
        if not pictures:
            raise ValueError("no images: the list given is empty")
        return pictures

    # Transformers hands every option to each of the next two, hence **others: `preprocess` has checked the names.

    def process_image(
        self, image, *, background, input_data_format, do_draft, do_resize, size, do_crop_content, do_rescale, **others
    ) -> Image.Image:
        """One source as upright RGB."""
        if not do_rescale and _is_floating(image):
            raise ValueError(
                "pictures of floats are read as 0..1 and become 0..255 like all others; "
                "do_rescale=False would leave them there"
            )
        draft = do_draft and do_resize and not do_crop_content and size.height and size.width
        return load_image(
            image,
            background=background,
            input_data_format=input_data_format,
            draft_size=max(size.height, size.width) if draft else None,
        )

    def _preprocess(
        self,
        images: list[Image.Image],
        *,
        background,
        do_crop_content,
        content_threshold,
        content_margin,
        do_resize,
        size,
        resample,
        do_center_crop,
        crop_size,
        do_rescale,
        rescale_factor,
        do_normalize,
        image_mean,
        image_std,
        return_tensors,
        **others,
    ) -> BatchFeature:
        if do_crop_content:
            colour = rgb_colour(background)
            images = [cut_to_content(image, colour, content_threshold, content_margin) for image in images]
        if do_resize:
            images = [image.resize(_target_size(image.size, size), resample) for image in images]
        if do_center_crop:
            images = [_centre_crop(image, crop_size.height, crop_size.width) for image in images]
        pixel_values = _to_numbers(
            images,
            scale=rescale_factor if do_rescale else 1.0,
            mean=image_mean if do_normalize else 0.0,
            std=image_std if do_normalize else 1.0,
        )
        return BatchFeature({"pixel_values": pixel_values}, tensor_type=return_tensors)


def cut_to_content(image: Image.Image, colour: tuple[int, int, int], threshold: int, margin: float) -> Image.Image:
    """The box of pixels that differ from `colour` by more than `threshold` in any channel, centred on a square of it.

    An image without such pixels is kept whole. `margin` is added on each side, as a share of the square's side.
    """
    levels = [0] * (threshold + 1) + [255] * (255 - threshold)
    box = ImageChops.difference(image, Image.new("RGB", image.size, colour)).point(levels * 3).getbbox()
    content = image.crop(box) if box else image
    longest = max(content.size)
    if longest > LARGEST_SQUARE:
        shrink = LARGEST_SQUARE / longest
        content = content.resize([max(1, round(edge * shrink)) for edge in content.size], Image.Resampling.BICUBIC)
    side = max(content.size)
    side += 2 * round(side * margin)
    if content.size == (side, side):
        return content
    square = Image.new("RGB", (side, side), colour)
    square.paste(content, ((side - content.width) // 2, (side - content.height) // 2))
    return square


def _target_size(width_height: tuple[int, int], size: SizeDict) -> tuple[int, int]:
    """(width, height) to resize to, by any of the forms that `size` may have."""
    width, height = width_height
    if size.height and size.width:
        return size.width, size.height
    if size.shortest_edge:
        new_height, new_width = get_size_with_aspect_ratio((height, width), size.shortest_edge, size.longest_edge)
    elif size.max_height and size.max_width:
        new_height, new_width = get_image_size_for_max_height_width((height, width), size.max_height, size.max_width)
    else:
        raise ValueError(
            f"size has height and width, shortest_edge (and longest_edge), or max_height and max_width; "
            f"got {dict(size)}"
        )
    if new_height * new_width > MAX_PIXELS:
        raise MediaDecodeError(
            f"a picture of {width} x {height} would become {new_width} x {new_height}, more than {MAX_PIXELS} pixels"
        )
    return max(1, new_width), max(1, new_height)


def _centre_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """The middle of the image; black where the image is smaller than (height, width)."""
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _to_numbers(images: list[Image.Image], scale: float, mean: Any, std: Any) -> np.ndarray:
    """(pixels * scale - mean) / std as one array (n, 3, H, W), float32."""
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        raise ValueError(
            f"the pictures come out at different (width, height) {sorted(sizes)}: "
            f"set size={{'height': h, 'width': w}}, or turn on do_center_crop"
        )
    mean, std = (np.asarray(value, dtype=np.float32).reshape(-1, 1, 1) for value in (mean, std))
    factor, offset = np.float32(scale) / std, mean / std
    width, height = sizes.pop()
    pixel_values = np.empty((len(images), 3, height, width), dtype=np.float32)
    for target, image in zip(pixel_values, images, strict=True):
        np.multiply(np.asarray(image).transpose(2, 0, 1), factor, out=target)
        target -= offset
    return pixel_values


def _is_floating(source: Any) -> bool:
    if isinstance(source, torch.Tensor):
        return source.is_floating_point()
    return isinstance(source, np.ndarray) and np.issubdtype(source.dtype, np.floating)


def _check_types(options: dict[str, Any]) -> None:
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


def _check_options(options: dict[str, Any]) -> None:
    """Values of options. Raises ValueError that names the option, what was given and what is accepted."""
    rgb_colour(options["background"])
    threshold, margin = options["content_threshold"], options["content_margin"]
    if not 0 <= threshold <= 254:
        raise ValueError(f"content_threshold={threshold}; accepted are 0..254")
    if not 0 <= margin <= 1:
        raise ValueError(f"content_margin={margin}; accepted are 0..1, a share of the square's side")
    for name in ("image_mean", "image_std"):
        if np.asarray(options[name]).size not in (1, 3):
            raise ValueError(f"{name}={options[name]!r}; accepted are one number or three")
    if not np.all(np.asarray(options["image_std"]) > 0):
        raise ValueError(f"image_std={options['image_std']!r}; accepted are numbers above 0")
    if options["do_convert_rgb"] is False:
        raise ValueError("do_convert_rgb=False: pictures are always read as RGB")
    if options["do_pad"]:
        raise ValueError("do_pad=True: all pictures get one size; set size or do_center_crop")
    if options["data_format"] not in (None, ChannelDimension.FIRST):
        raise ValueError(f"data_format={options['data_format']!r}: pixel_values are always channels first")
