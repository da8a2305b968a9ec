"""From pictures to pixel_values.

    read ── cut to the content ── resize, by one of four modes ── centre crop ── rescale and normalise
    └───────────────── Pillow, RGB, 8 bits, picture by picture ────────────┘     (n, 3, H, W) float32, one buffer

It does not need torchvision or another processor class; `processor_fast.py` has the twin on tensors.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import PILImageResampling
from transformers.utils.constants import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD

from ...configuration.auto_map import finish_image_processor, kept
from .geometry import Box, View, centre_crop, content_box, content_resized, content_square, cut_to_content, fit, shaped
from .limits import MAX_BATCH_PIXELS, MAX_BYTES, MAX_PIXELS, MediaDecodeError
from .load import PictureReader, flat_pictures, load_image, rgb_colour
from .options import SAVED_BESIDE_OPTIONS, MMImageProcessorKwargs, check_options, check_types
from .saving import SavesItsCode

logger = logging.getLogger(__name__)


class PictureOptions(SavesItsCode, BaseImageProcessor):
    """What both image processors share: the options and their defaults, reading, and shaping picture by picture."""

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
    do_icc = False
    input_range = None
    channel_order = "rgb"
    resize_mode = "squash"
    patch_size = 16
    max_patches = 256
    augmentation = None

    def __init__(self, **kwargs: Any):
        kwargs = kept(kwargs)
        check_types({name: value for name, value in kwargs.items() if name not in SAVED_BESIDE_OPTIONS})
        super().__init__(**kwargs)
        check_options(self._options({}))

    def _options(self, given: dict[str, Any]) -> dict[str, Any]:
        """Every option of a call: those given, the processor's own for the rest."""
        own = {name: getattr(self, name) for name in self._valid_kwargs_names}
        return self._standardize_kwargs(**(own | given))

    def _finish(self, folder: Path) -> None:
        finish_image_processor(folder, self)

    def load(
        self,
        source: Any,
        *,
        max_pixels: int = MAX_PIXELS,
        max_bytes: int = MAX_BYTES,
        allow_urls: bool = False,
        budget: Any = None,
        box_of: Callable[[tuple[int, int]], Box] | None = None,
        **options: Any,
    ) -> Image.Image:
        """One picture as this processor reads it before any geometry: upright RGB. Errors as `load_image` raises.

        box_of: of (width, height) the box that is kept, which comes no larger than this processor needs.
        """
        check_types(options)
        limits = {"max_pixels": max_pixels, "max_bytes": max_bytes, "allow_urls": allow_urls, "budget": budget}
        return self.process_image(source, box_of=box_of, **limits, **self._options(options))

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Transformers' way to paths and URLs: pictures as `load` reads them, so that no URL is fetched."""
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(one) for one in image_url_or_urls]
        return self.load(image_url_or_urls)

    def __call__(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """As `preprocess`."""
        return self.preprocess(images, *args, **kwargs)

    def preprocess(
        self,
        images: Any,
        *args: Any,
        on_error: str = "raise",
        allow_urls: bool = False,
        max_pixels: int = MAX_PIXELS,
        max_bytes: int = MAX_BYTES,
        max_batch_pixels: int = MAX_BATCH_PIXELS,
        **kwargs: Any,
    ) -> BatchFeature:
        """Pictures to pixel_values (n, 3, H, W): float32, or uint8 where both do_rescale and do_normalize are False.

        Args:
            images: one picture, an array (n, ...) of pictures, or a list of these; nested lists are flattened.
            on_error: for pictures that are missing or broken: "raise", "skip" (they are left out) or "placeholder"
                (zeros). With the last two each is logged, and so is their number.
            allow_urls: fetch http(s) URLs, only from public addresses.
            max_pixels, max_bytes, max_batch_pixels: limits of a picture, of its file, and of all pictures together.
            kwargs: options (see MMImageProcessorKwargs) that override the processor's, and
                return_tensors: "pt", "np" or None (a numpy array).

        Returns:
            pixel_values; under resize_mode="native" pixel_attention_mask bool (n, rows, columns), too, True for the
            patches of each picture.

        Raises:
            ValueError, TypeError: no pictures, or an option or a source that is not accepted.
            MediaDecodeError: a broken file, or more than the limits allow. FileNotFoundError: no file at a path.
        """
        check_types(kwargs)
        check_options(self._options(kwargs))
        limits = {"max_pixels": max_pixels, "max_bytes": max_bytes, "allow_urls": allow_urls}
        reader = PictureReader(on_error, max_batch_pixels, **limits)
        return super().preprocess(images, *args, image_like_kwargs={"reader": reader}, **kwargs)

    def pixels_of(self, pictures: list[Image.Image], **options: Any) -> BatchFeature:
        """`preprocess` for pictures that `load` gave: they are upright RGB, and are not read again."""
        check_types(options)
        check_options(self._options(options))
        return super().preprocess(pictures, image_like_kwargs={"reader": None}, **options)

    def _preprocess_image_like_inputs(
        self, images: Any, *args: Any, reader: PictureReader | None, **options
    ) -> BatchFeature:
        """Each picture is read, shaped and let go before the next is read; without a reader all are read already."""
        if reader is None:
            return self._batch([self._shaped(picture, options) for picture in images], options)
        sources = flat_pictures(images)
        if not sources:
            raise ValueError("no images: the list given is empty")
        load = partial(self.process_image, **options)
        shapes = []
        for index, source in enumerate(sources):
            picture = reader.read(source, index, load)
            shapes.append(None if picture is None else self._shaped(picture, options))
        if reader.faults:
            logger.warning(
                "%d of %d images cannot be read (on_error=%r)", len(reader.faults), len(sources), reader.on_error
            )
        if all(shape is None for shape in shapes):
            raise MediaDecodeError(f"none of the {len(sources)} images can be read; the first: {reader.faults[0]}")
        if reader.on_error == "skip":
            shapes = [shape for shape in shapes if shape is not None]
        return self._batch(shapes, options)

    def _shaped(self, picture: Image.Image, options: dict[str, Any]) -> Any:
        """A picture in the size that goes into the batch."""
        raise NotImplementedError

    def _cut(self, picture: Image.Image, options: dict[str, Any]) -> Image.Image:
        """A picture cut to its content, if the options say so."""
        if not options["do_crop_content"]:
            return picture
        colour = rgb_colour(options["background"])
        return cut_to_content(picture, colour, options["content_threshold"], options["content_margin"])

    def view(self, picture: Image.Image, **options: Any) -> View:
        """Where the pixels that this processor makes of an upright picture (as `load` gives it) lie in it."""
        check_types(options)
        options = self._options(options)
        view = View(0, 0, 1, 1, *picture.size)
        if options["do_crop_content"]:
            colour = rgb_colour(options["background"])
            box, size, side = content_square(picture, colour, options["content_threshold"], options["content_margin"])
            view = view.of_box(box, size).centred((side, side))
        if options["do_resize"]:
            sizes = options["size"], options["patch_size"], options["max_patches"]
            box, size, canvas = fit((view.width, view.height), options["resize_mode"], *sizes)
            view = view.of_box(box, size)
            view = view if canvas is None else view.centred(canvas)
        if options["do_center_crop"]:
            width, height = options["crop_size"].width, options["crop_size"].height
            left, top = (view.width - width) // 2, (view.height - height) // 2
            view = view.of_box((left, top, left + width, top + height), (width, height))
        return view

    def _batch(self, shapes: list[Any], options: dict[str, Any]) -> BatchFeature:
        """pixel_values (n, 3, H, W) of shaped pictures, and pixel_attention_mask where they differ in size."""
        native = options["do_resize"] and options["resize_mode"] == "native"
        sizes = [(0, 0) if shape is None else self._size(shape) for shape in shapes]
        numbers = Numbers(
            scale=options["rescale_factor"] if options["do_rescale"] else 1.0,
            mean=options["image_mean"] if options["do_normalize"] else 0.0,
            std=options["image_std"] if options["do_normalize"] else 1.0,
            as_bytes=not (options["do_rescale"] or options["do_normalize"]),
        )
        data: dict[str, Any] = {"pixel_values": self._pixel_values(shapes, batch_size(sizes, native), numbers)}
        if native:
            mask = patch_mask(sizes, options["patch_size"])
            pixels = data["pixel_values"]
            is_tensor = isinstance(pixels, torch.Tensor)
            data["pixel_attention_mask"] = torch.from_numpy(mask).to(pixels.device) if is_tensor else mask
        return BatchFeature(data, tensor_type=options["return_tensors"])

    def _size(self, shape: Any) -> tuple[int, int]:
        """(width, height) of a shaped picture."""
        raise NotImplementedError

    def _pixel_values(self, shapes: list[Any], size: tuple[int, int], numbers: "Numbers") -> Any:
        """Shaped pictures as one (n, 3, H, W); zeros for None, and around pictures that are smaller than `size`."""
        raise NotImplementedError

    def process_image(self, image: Any, *args: Any, **options: Any) -> Image.Image:
        """One source as upright RGB. options: all those of a call, and the limits of `load_image`."""
        if not options["do_rescale"] and _is_floating(image):
            raise ValueError(
                "pictures of floats are read as 0..1 and become 0..255 like all others; "
                "do_rescale=False would leave them there"
            )
        size = options["size"]
        has_size = options["do_resize"] and options["resize_mode"] != "native" and size.height and size.width
        content, colour = options["do_crop_content"], rgb_colour(options["background"])
        content_of = partial(content_box, colour=colour, threshold=options["content_threshold"])
        same = ("background", "input_data_format", "input_range", "channel_order")
        limits = ("max_pixels", "max_bytes", "allow_urls", "budget")
        return load_image(
            image,
            use_icc=options["do_icc"],
            convert_rgb=options["do_convert_rgb"] is not False,
            draft_size=max(size.height, size.width) if options["do_draft"] and has_size and not content else None,
            box_of=options.get("box_of"),
            enough=(size.width, size.height) if has_size else None,
            content_of=content_of if content else None,
            **{name: options[name] for name in (*same, *limits) if name in options},
        )


class MMImageProcessorPil(PictureOptions, PilBackend):  # pyright: ignore[reportIncompatibleMethodOverride]: ours reads
    """Pictures of any source as pixel_values (n, 3, H, W), float32; by default 224 x 224 and in -1..1.

    The same picture gives the same pixels whether it comes as path, bytes, file object, PIL image, array or tensor:
    `mm.load_image` says how each is read. Every option is an attribute, saved with the processor,
    and may be overridden in a call.
    """

    def _shaped(self, picture: Image.Image, options: dict[str, Any]) -> Image.Image:
        colour = rgb_colour(options["background"])
        mode, size, resample = options["resize_mode"], options["size"], options["resample"]
        if options["do_crop_content"] and options["do_resize"] and mode == "squash":
            cut = options["content_threshold"], options["content_margin"]
            picture = content_resized(picture, colour, *cut, size, resample)
        else:
            picture = self._cut(picture, options)
            if options["do_resize"]:
                picture = shaped(picture, mode, size, resample, colour, options["patch_size"], options["max_patches"])
        crop = options["crop_size"]
        return centre_crop(picture, crop.height, crop.width) if options["do_center_crop"] else picture

    def _size(self, shape: Image.Image) -> tuple[int, int]:
        return shape.size

    def _pixel_values(self, shapes: list[Image.Image | None], size: tuple[int, int], numbers: "Numbers") -> np.ndarray:
        mean, std = (np.broadcast_to(np.asarray(n, dtype=np.float32), 3) for n in (numbers.mean, numbers.std))
        factors, offsets = np.float32(numbers.scale) / std, mean / std
        make = np.empty if all(shape is not None and shape.size == size for shape in shapes) else np.zeros
        pixel_values = make((len(shapes), 3, size[1], size[0]), dtype=np.uint8 if numbers.as_bytes else np.float32)
        for target, shape in zip(pixel_values, shapes, strict=True):
            if shape is None:
                continue
            inside = target[:, : shape.height, : shape.width]
            for channel, plane, factor, offset in zip(inside, shape.split(), factors, offsets, strict=True):
                channel[:] = np.asarray(plane)
                if not numbers.as_bytes:
                    channel *= factor
                    channel -= offset
        return pixel_values


@dataclass
class Numbers:
    """What becomes of pixels: (pixel * scale - mean) / std, or with as_bytes unchanged."""

    scale: float
    mean: Any
    std: Any
    as_bytes: bool


def batch_size(sizes: list[tuple[int, int]], ragged: bool) -> tuple[int, int]:
    """(width, height) of a batch of pictures of these; (0, 0) stands for a placeholder. Raises ValueError."""
    found = {size for size in sizes if size != (0, 0)}
    if len(found) > 1 and not ragged:
        raise ValueError(
            f"the pictures come out at different (width, height) {sorted(found)}: "
            f"set size={{'height': h, 'width': w}}, or turn on do_center_crop"
        )
    return max(width for width, _ in found), max(height for _, height in found)


def patch_mask(sizes: list[tuple[int, int]], patch_size: int) -> np.ndarray:
    """bool (n, rows, columns), True for the patches of each picture, at the top left."""
    width, height = batch_size(sizes, ragged=True)
    mask = np.zeros((len(sizes), height // patch_size, width // patch_size), dtype=bool)
    for row, (across, down) in zip(mask, sizes, strict=True):
        row[: down // patch_size, : across // patch_size] = True
    return mask


def _is_floating(source: Any) -> bool:
    if isinstance(source, torch.Tensor):
        return source.is_floating_point()
    return isinstance(source, np.ndarray) and np.issubdtype(source.dtype, np.floating)
