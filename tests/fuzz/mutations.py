"""Broken copies of good files: bytes flipped, cut, doubled, moved, and numbers set to where readers go wrong."""

import io
import random
import struct

from PIL import Image

# Lengths, sizes, counts and offsets at the edges of what a reader may have provided for.
EDGES = (
    0, 1, 2, 3, 7, 8, 15, 16, 127, 128, 255, 256, 1023, 4095, 4096, 32767, 32768, 65535, 65536, 2**24 - 1, 2**31 - 1,
    2**31, 2**32 - 1,
)  # fmt: skip
WIDTHS = ("B", ">H", "<H", ">I", "<I")


def image_seeds() -> list[bytes]:
    """Small pictures in every accepted format, and in the kinds of each that are read by code of their own."""
    rng = random.Random(0)
    rgb = Image.frombytes("RGB", (24, 16), rng.randbytes(24 * 16 * 3))
    smooth = Image.radial_gradient("L").resize((40, 30))
    frames = [rgb, rgb.transpose(Image.Transpose.ROTATE_180)]
    alpha = rgb.convert("RGBA")
    alpha.putalpha(smooth.resize(rgb.size))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    wide = Image.frombytes("I;16", (12, 10), rng.randbytes(240))
    pages, one_bit = {"save_all": True, "append_images": frames}, smooth.convert("1")
    kinds = [
        (rgb, "JPEG", {}), (smooth, "JPEG", {"progressive": True, "exif": exif}), (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "JPEG", {"subsampling": 2, "restart_marker_rows": 1}), (rgb, "PNG", {"exif": exif}), (alpha, "PNG", {}),
        (rgb.convert("P"), "PNG", {"transparency": 3}), (wide, "PNG", {}), (one_bit, "PNG", {}), (rgb, "PNG", pages),
        (rgb, "WEBP", {}), (alpha, "WEBP", {"lossless": True}), (rgb, "WEBP", pages), (rgb, "GIF", {}),
        (smooth, "GIF", {"interlace": 1}), (rgb, "GIF", {**pages, "disposal": 2}), (rgb, "BMP", {}),
        (rgb.convert("P"), "BMP", {}), (one_bit, "BMP", {}), (rgb, "TIFF", {}), (wide, "TIFF", {}),
        (rgb, "TIFF", {"compression": "tiff_lzw"}), (rgb, "TIFF", {"compression": "jpeg"}),
        (rgb, "TIFF", {"compression": "tiff_adobe_deflate", "exif": exif}),
        (alpha, "TIFF", {"compression": "packbits"}), (one_bit, "TIFF", {"compression": "group4"}),
        (rgb, "AVIF", {}), (alpha, "AVIF", {"quality": 90}),
    ]  # fmt: skip
    seeds = []
    for image, fmt, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, fmt, **options)
        seeds.append(buffer.getvalue())
    return seeds


def mutated(seeds: list[bytes], number: int) -> bytes:
    """Case `number`: always the same, whatever ran before it."""
    rng = random.Random(number)
    data = bytearray(seeds[number % len(seeds)])
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        _mutate(data, rng, seeds)
    return bytes(data)


def _mutate(data: bytearray, rng: random.Random, seeds: list[bytes]) -> None:
    if not data:
        return
    # headers decide most, so half of all changes fall into the first bytes
    end = len(data) if rng.random() < 0.5 else min(len(data), 64)
    place = rng.randrange(end)
    length = min(rng.choice((1, 2, 4, 16, 64)), len(data) - place)
    kind = rng.randrange(8)
    if kind == 0:
        data[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[place] = rng.randrange(256)
    elif kind == 2:
        layout = rng.choice(WIDTHS)
        size = struct.calcsize(layout)
        data[place : place + size] = struct.pack(layout, rng.choice(EDGES) % 256**size)
    elif kind == 3:
        del data[place:]
    elif kind == 4:
        del data[place : place + length]
    elif kind == 5:
        data[place:place] = data[place : place + length] * rng.choice((1, 2, 50))
    elif kind == 6:
        data[place : place + length] = rng.randbytes(length)
    else:
        other = rng.choice(seeds)
        start = rng.randrange(len(other))
        data[place : place + length] = other[start : start + rng.choice((4, 16, 64))]
