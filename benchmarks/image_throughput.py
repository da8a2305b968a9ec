"""Decode and resize 1,000 JPEG and PNG files: MMImageProcessorPil beside transformers' BlipImageProcessorPil.

OMP_NUM_THREADS=1 python benchmarks/image_throughput.py [--pictures 1000] [--workers 2]

The same files, size, resampling, mean and standard deviation in both; their pixel_values are compared first. Times are
medians over blocks of 50 files that are read in turn by the one and the other. Then one process against a DataLoader
with workers, in turn too; that ratio means something only on a machine with as many idle cores.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import BlipImageProcessorPil

from mm import MMImageProcessorPil

BLOCK = 50
SIZES = [(640, 480), (480, 640), (500, 375), (800, 600)]


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Half JPEG, half PNG: soft shapes with some grain, of four sizes."""
    paths = []
    for number in range(count):
        rng = np.random.default_rng(number)
        width, height = SIZES[number % len(SIZES)]
        soft = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((width, height))
        grain = rng.integers(0, 12, (height, width, 1), dtype=np.uint8)
        image = Image.fromarray(np.asarray(soft) // 16 * 15 + grain)
        path = folder / f"{number}.{'jpg' if number % 2 else 'png'}"
        options: dict[str, Any] = {"quality": 90} if number % 2 else {"compress_level": 1}
        image.save(path, **options)
        paths.append(path)
    return paths


def processors() -> tuple[MMImageProcessorPil, Any]:
    theirs: Any = BlipImageProcessorPil()
    ours = MMImageProcessorPil(
        size=dict(theirs.size), resample=theirs.resample, image_mean=theirs.image_mean, image_std=theirs.image_std
    )
    return ours, theirs


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class Pictures(Dataset):
    def __init__(self, paths: list[Path], processor):
        self.paths, self.processor = paths, processor

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.processor(self.paths[index], return_tensors="pt")["pixel_values"][0]


def read_all(dataset: Dataset, workers: int) -> None:
    for _ in DataLoader(dataset, batch_size=16, num_workers=workers):
        pass


def compare(paths: list[Path]) -> list[tuple[float, float]]:
    """(MM, BLIP) seconds for each block of files, in turn."""
    ours, theirs = processors()
    first, names = paths[:BLOCK], [str(path) for path in paths]
    mine = ours(first, return_tensors="pt")["pixel_values"]
    blips = theirs(names[:BLOCK], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(mine, blips.float(), rtol=0, atol=1e-5)
    times = []
    for start in range(0, len(paths), BLOCK):
        calls = {
            "mm": lambda start=start: ours(paths[start : start + BLOCK], return_tensors="pt"),
            "blip": lambda start=start: theirs(names[start : start + BLOCK], return_tensors="pt"),
        }
        order = ("mm", "blip") if start // BLOCK % 2 else ("blip", "mm")
        found = {name: seconds(calls[name]) for name in order}
        times.append((found["mm"], found["blip"]))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pictures(Path(folder), arguments.pictures)
        times = compare(paths)
        per_picture = [1000 * statistics.median(side) / BLOCK for side in zip(*times, strict=True)]
        print(f"{arguments.pictures} pictures, half JPEG, half PNG, to {tuple(dict(processors()[0].size).values())}")
        print(f"MMImageProcessorPil    {per_picture[0]:6.2f} ms per picture")
        print(f"BlipImageProcessorPil  {per_picture[1]:6.2f} ms per picture")
        print(f"ratio BLIP / MM        {statistics.median(blip / mine for mine, blip in times):6.2f} median of pairs")
        if arguments.workers:
            dataset = Pictures(paths, processors()[0])
            rounds = [
                (seconds(lambda: read_all(dataset, 0)), seconds(lambda: read_all(dataset, arguments.workers)))
                for _ in range(arguments.rounds)
            ]
            speedups = [alone / together for alone, together in rounds]
            print(f"{arguments.workers} workers / none       {statistics.median(speedups):6.2f} times as fast")


if __name__ == "__main__":
    main()
