"""NumPy arrays and torch tensors to images, by rules that are certain or raise: layout, type and range.

uint8 0..255    uint16 0..65535    bool: a mask    floats 0..1, or 0..255 with input_range=255
"""

import numpy as np
import torch
from PIL import Image

from .colours import strips
from .limits import MAX_PIXELS, MediaDecodeError, PixelBudget, check_pixels

CHANNEL_COUNTS = (1, 3, 4)
MODES = {1: "L", 3: "RGB", 4: "RGBA"}

Array = np.ndarray | torch.Tensor


def image_from_array(
    array: Array,
    input_data_format: str | None = None,
    *,
    input_range: int | float | None = None,
    channel_order: str = "rgb",
    max_pixels: int = MAX_PIXELS,
    budget: PixelBudget | None = None,
) -> Image.Image:
    """An image of mode L, RGB or RGBA.

    Args:
        array: (H, W), (H, W, C) or (C, H, W) with C of 1, 3, 4; on any device, of any strides, with or without grad.
        input_data_format: "channels_first" or "channels_last" for 3-D arrays; None finds out where that is certain.
        input_range: 255 for numbers of any type in 0..255; 1 or None: floats are in 0..1.
        channel_order: "bgr" where the first of the channels is blue (OpenCV's pictures).

    Raises:
        ValueError: a shape, type, range or layout not accepted.
        MediaDecodeError (a ValueError): NaN, Inf, no pixels, or more than the limits allow.
    """
    if input_range not in (None, 1, 255):
        raise ValueError(f"input_range={input_range!r}; accepted are 1 and 255, the largest value of a float picture")
    if channel_order not in ("rgb", "bgr"):
        raise ValueError(f"channel_order={channel_order!r}; accepted are 'rgb' and 'bgr'")
    if isinstance(array, torch.Tensor):
        array = _on_host(array)
    pixels = _channels_last(array, input_data_format)
    height, width = pixels.shape[:2]
    check_pixels(width, height, max_pixels, budget)
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    image = Image.new(MODES[channels], (width, height))
    for top, bottom in strips(width, height):
        rows = pixels[top:bottom]
        values = _to_uint8(rows if isinstance(rows, np.ndarray) else rows.float().numpy(), input_range)
        if channel_order == "bgr" and channels > 1:
            values = values[..., [2, 1, 0, 3][:channels]]
        values = values.reshape(bottom - top, width, channels)[:, :, 0] if channels == 1 else values
        image.paste(Image.fromarray(np.ascontiguousarray(values)), (0, top))
    return image


def _on_host(tensor: torch.Tensor) -> Array:
    """The values in main memory, as NumPy has them where NumPy has their type. Raises ValueError for other types."""
    try:
        values = tensor.detach().cpu()
        return values if values.dtype == torch.bfloat16 else values.numpy()
    except (TypeError, RuntimeError) as fault:
        raise ValueError(
            f"array pictures are uint8, uint16, bool or floating; got {tensor.dtype}, {tensor.layout}"
        ) from fault


def _channels_last(array: Array, input_data_format: str | None) -> Array:
    """`array` as (H, W) or (H, W, C), a view. Raises ValueError where the layout is not certain."""
    shape = tuple(array.shape)
    if input_data_format not in (None, "channels_first", "channels_last"):
        raise ValueError(f"input_data_format is 'channels_first' or 'channels_last'; got {input_data_format!r}")
    if len(shape) not in (2, 3) or 0 in shape:
        kind = MediaDecodeError if 0 in shape else ValueError
        raise kind(
            f"an array picture is (H, W), (H, W, C) or (C, H, W) with C of {CHANNEL_COUNTS} and no size 0; "
            f"got shape {shape}"
        )
    if len(shape) == 2:
        return array
    first, last = shape[0] in CHANNEL_COUNTS, shape[-1] in CHANNEL_COUNTS
    if input_data_format is None and first and last:
        raise ValueError(
            f"the array of shape {shape} may be (C, H, W) or (H, W, C); "
            f"say input_data_format='channels_first' or 'channels_last'"
        )
    channels_first = first if input_data_format is None else input_data_format == "channels_first"
    if not (first if channels_first else last):
        raise ValueError(
            f"an array picture has {CHANNEL_COUNTS} channels, first or last; got shape {shape}"
            + (f" with input_data_format={input_data_format!r}" if input_data_format else "")
        )
    if not channels_first:
        return array
    return np.moveaxis(array, 0, -1) if isinstance(array, np.ndarray) else array.movedim(0, -1)


def _to_uint8(array: np.ndarray, input_range: int | float | None) -> np.ndarray:
    """Values in 0..255 by the array's type and `input_range`. Raises ValueError outside of the range."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    floating = np.issubdtype(array.dtype, np.floating)
    if not floating and input_range != 255:
        if array.dtype == np.uint16:
            return np.rint(array / np.float32(257)).astype(np.uint8)
        raise ValueError(
            f"array pictures are uint8, uint16, bool or floating; got {array.dtype}. "
            f"input_range=255 reads numbers of any type in 0..255"
        )
    if array.dtype.kind not in "fiu":
        raise ValueError(f"array pictures are uint8, uint16, bool or floating; got {array.dtype}")
    low, high, top = array.min(), array.max(), 255 if input_range == 255 else 1
    if not (np.isfinite(low) and np.isfinite(high)):
        raise MediaDecodeError("the picture holds NaN or Inf")
    if low < 0 or high > top:
        hint = " Divide by 255, give uint8 for 0..255, or say input_range=255" if floating and top == 1 else ""
        kind = "floating pictures are" if floating else f"pictures of {array.dtype} are"
        raise ValueError(f"{kind} in 0..{top}; got {low:.4g}..{high:.4g}.{hint}")
    wide = array.astype(np.float32) if array.dtype == np.float16 else array
    return np.rint(wide * 255 if top == 1 else wide).astype(np.uint8)
