"""What reading pictures costs in memory: a process for each figure, its growth over what importing MM takes.

OMP_NUM_THREADS=1 python benchmarks/processing_memory.py

peak: the most that a process ever held for one picture of 64 megapixels, to pixel_values of 224 x 224.
slope: growth of what is held per 1,000 pictures, after a first 1,000.
"""

import argparse
import ctypes
import gc
import io
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

SIDE = 8000  # 64 megapixels
PEAK_LIMIT_MB, SLOPE_LIMIT_MB = 400, 1.0


def peak() -> float:
    """MB that this process ever held at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def held() -> float:
    """MB that this process holds, after free memory was given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def file_of(fmt: str, mode: str) -> bytes:
    """Made in a process of its own, so that making it costs this one nothing."""
    code = (
        "import sys, io; from PIL import Image; "
        f"image = Image.new({mode!r}, ({SIDE}, {SIDE}), {(200, 30, 90, 128)[: len(mode)]!r}); buffer = io.BytesIO(); "
        f"image.save(buffer, {fmt!r}, **({{'compress_level': 1}} if {fmt!r} == 'PNG' else "
        f"{{'compression': 'tiff_lzw'}} if {fmt!r} == 'TIFF' else {{}})); "
        "sys.stdout.buffer.write(buffer.getvalue())"
    )
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout


def array_of(channels: int) -> np.ndarray:
    return np.full((SIDE, SIDE, channels), 100, dtype=np.uint8)


SOURCES: dict[str, Callable[[], Any]] = {
    "PNG, RGB": lambda: file_of("PNG", "RGB"),
    "PNG, RGBA": lambda: file_of("PNG", "RGBA"),
    "JPEG, RGB": lambda: file_of("JPEG", "RGB"),
    "TIFF, RGBA": lambda: file_of("TIFF", "RGBA"),
    "array, RGB": lambda: array_of(3),
    "array, RGBA": lambda: array_of(4),
    "tensor, RGB, channels first": lambda: torch.from_numpy(array_of(3)).permute(2, 0, 1),
    "PIL image, RGB": lambda: Image.new("RGB", (SIDE, SIDE), "red"),
    "PIL image, RGBA": lambda: Image.new("RGBA", (SIDE, SIDE), (200, 30, 90, 128)),
}


def peak_growth(name: str, cut: bool) -> float:
    from mm import MMImageProcessorPil

    processor = MMImageProcessorPil(do_crop_content=cut)
    processor(Image.new("RGBA", (64, 64)))
    source = SOURCES[name]()
    before = held()
    if peak() > before + 50:  # making the source took more than it holds: the figure would be too low
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # sets the peak back to what is held
    processor(source)
    with open("/proc/self/status") as file:
        highest = next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024 / 1e6
    return highest - before


def slope() -> float:
    """MB per 1,000 pictures of mixed kinds and sizes, one in ten of them broken."""
    from mm import MediaDecodeError, MMImageProcessorPil

    processor = MMImageProcessorPil()
    rng = np.random.default_rng(0)
    files = []
    for fmt in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (rng.integers(50, 300), 200, 3), dtype=np.uint8)).save(buffer, fmt)
        files.append(buffer.getvalue())

    def thousand(start: int) -> None:
        for number in range(start, start + 1000):
            raw = files[number % len(files)]
            try:
                processor.preprocess([raw[: len(raw) // 2] if number % 10 == 0 else raw], return_tensors="pt")
            except MediaDecodeError:
                pass

    thousand(0)
    before = held()
    for start in range(1000, 4000, 1000):
        thousand(start)
    return (held() - before) / 3


def measured(*arguments: str) -> float:
    command = [sys.executable, __file__, *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=SOURCES)
    parser.add_argument("--cut", action="store_true", help="cut to the content first, as checkpoints/mm-tiny does")
    parser.add_argument("--slope", action="store_true")
    arguments = parser.parse_args()
    if arguments.source:
        print(peak_growth(arguments.source, arguments.cut))
        return 0
    if arguments.slope:
        print(slope())
        return 0
    worst = 0.0
    print(f"{'64 megapixels as':<30}{'peak growth':>14}{'cut to content':>18}")
    for name in SOURCES:
        plain, cut = measured("--source", name), measured("--source", name, "--cut")
        worst = max(worst, plain, cut)
        print(f"{name:<30}{plain:>11.0f} MB{cut:>15.0f} MB")
    growth = measured("--slope")
    print(f"per 1,000 pictures after the first 1,000: {growth:+.2f} MB")
    print(f"limits: {PEAK_LIMIT_MB} MB and {SLOPE_LIMIT_MB} MB")
    return int(worst > PEAK_LIMIT_MB or growth > SLOPE_LIMIT_MB)


if __name__ == "__main__":
    sys.exit(main())
