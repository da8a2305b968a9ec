"""Photos that are made on the spot, the same every time."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# What BLIP's image processor does, for MM's.
BLIP_PIXELS: dict[str, Any] = {
    "size": {"height": 384, "width": 384}, "resample": 3, "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip


def photo(number: int, size: tuple[int, int], kind: str = "JPEG") -> bytes:
    """A JPEG or PNG file of soft shapes with some grain."""
    rng, (width, height), file = np.random.default_rng(number), size, io.BytesIO()
    soft = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(size)
    grain = rng.integers(0, 12, (height, width, 1), dtype=np.uint8)
    image = Image.fromarray(np.asarray(soft) // 16 * 15 + grain)
    image.save(file, kind, **({"quality": 90} if kind == "JPEG" else {"compress_level": 1}))
    return file.getvalue()


def write_photos(folder: Path, count: int) -> list[Path]:
    """Half JPEG, half PNG, of four sizes."""
    sizes, paths = [(640, 480), (480, 640), (500, 375), (800, 600)], []
    for number in range(count):
        path = folder / f"{number}.{'jpg' if number % 2 else 'png'}"
        path.write_bytes(photo(number, sizes[number % 4], "JPEG" if number % 2 else "PNG"))
        paths.append(path)
    return paths
