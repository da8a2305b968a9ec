"""Decode and resize 1,000 JPEG and PNG files: MMImageProcessorPil and transformers' BlipImageProcessorPil.

OMP_NUM_THREADS=1 python benchmarks/image_throughput.py [--pictures 1000] [--workers 2]
OMP_NUM_THREADS=1 python benchmarks/image_throughput.py --pythons OLD_PYTHON NEW_PYTHON    # two environments in turn

The same files, size, resampling, mean and standard deviation in both; their pixel_values are compared first. Times are
medians over blocks of 50 files that are read in turn by the one and the other.

Then DataLoaders of two workers, of one and of none read the same files in turn, after an epoch to warm up: pictures as
they are decoded and resized (uint8), and normalised ones (float32), which are four times as much to hand on. These
ratios mean something only on a machine with as many idle cores. Beside them stand the ceiling of the machine (Pillow's
decoding and resizing alone, in two bare processes and in one) and the CPU time of all processes against that of none:
twice its inverse is all that two cores can give.

With --pythons two interpreters read the same batches in turn with MMProcessor, each with the `mm` of its environment.
The pixels must be equal. CPU time is compared: other work on the machine changes it less. The third line is Pillow's
decoding, a copy in RGB and resizing (`_bare`).
"""

import argparse
import hashlib
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import BlipImageProcessorPil

from mm import MMImageProcessorPil, MMProcessor

BLOCK, BATCH = 50, 16
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


def read_pixels(processor: MMImageProcessorPil, paths: list[Path]) -> torch.Tensor:
    return processor(paths, return_tensors="pt")["pixel_values"]


def read_all(batches: DataLoader) -> None:
    for _ in batches:
        pass


def epoch(paths: list[Path], workers: int, processor: MMImageProcessorPil) -> tuple[float, float]:
    """Seconds of an epoch that is not the first, and CPU seconds of all processes for one of them."""
    before, data = sum(os.times()[:4]), cast(Dataset, paths)
    collate = partial(read_pixels, processor)
    batches = DataLoader(data, BATCH, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0)
    read_all(batches)
    passed = seconds(lambda: read_all(batches))
    batches._iterator = None  # ends the workers, whose CPU time is known then
    return passed, (sum(os.times()[:4]) - before) / 2


def bare(paths: list[Path], processes: int) -> float:
    """Seconds of only Pillow, in processes that share the files and give nothing back."""
    parts = [paths[start::processes] for start in range(processes)]
    started = [multiprocessing.get_context("fork").Process(target=_bare, args=(part,)) for part in parts]

    def run() -> None:
        for process in started:
            process.start()
        for process in started:
            process.join()

    return seconds(run)


def _bare(paths: list[Path]) -> None:
    for path in paths:
        with Image.open(path) as image:
            image.convert("RGB").resize((384, 384), Image.Resampling.BICUBIC)


def scaling(paths: list[Path], workers: int, rounds: int) -> dict[str, float]:
    """Medians of ratios over rounds in which everything is timed once."""
    numbers, found = processors()[0], {}
    bytes_alone = MMImageProcessorPil(**(numbers.to_dict() | {"do_rescale": False, "do_normalize": False}))
    for _ in range(rounds):
        ratios = {f"{workers} bare processes / 1": bare(paths, 1) / bare(paths, workers)}
        for kind, processor in (("uint8", bytes_alone), ("float32", numbers)):
            (none, plain), (one, _), (many, spent) = (epoch(paths, count, processor) for count in (0, 1, workers))
            ratios[f"{kind}, {workers} workers / none"] = none / many
            ratios[f"{kind}, {workers} workers / 1"] = one / many
            ratios[f"{kind}, CPU time / none's"] = spent / plain
        for name, value in ratios.items():
            found.setdefault(name, []).append(value)
    return {name: statistics.median(values) for name, values in found.items()}


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


def serve(folder: Path, only_pillow: bool) -> None:
    """Answers each line "first last" with the CPU seconds for these files, and a hash of their pixels."""
    torch.set_num_threads(1)
    paths, processor = sorted(folder.iterdir()), MMProcessor(image_processor=processors()[0])
    for line in sys.stdin:
        first, last = map(int, line.split())
        start = time.process_time()
        if only_pillow:
            _bare(paths[first:last])
            print(time.process_time() - start, "-", flush=True)
            continue
        pixels = processor(images=paths[first:last], return_tensors="pt")["pixel_values"]
        spent = time.process_time() - start
        print(spent, hashlib.sha256(pixels.numpy().tobytes()).hexdigest(), flush=True)


def in_turn(pythons: list[str], folder: Path, count: int, rounds: int) -> None:
    """Batches of BATCH files by each interpreter in turn, and by Pillow in the last one's environment."""
    names = ("old", "new", "Pillow")
    commands = [[python, __file__, "--serve", str(folder)] for python in (*pythons, pythons[-1])]
    commands[-1].append("--only-pillow")
    servers = [subprocess.Popen(c, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for c in commands]
    times: list[list[float]] = [[] for _ in servers]
    for number in range(-1, rounds):
        for start in range(0, count, BATCH):
            order, hashes = list(range(len(servers))), {}
            for place in order if (start // BATCH + number) % 2 else order[::-1]:
                server: Any = servers[place]
                server.stdin.write(f"{start} {min(count, start + BATCH)}\n")
                server.stdin.flush()
                spent, hashes[place] = server.stdout.readline().split()
                if number >= 0:  # the first round warms up
                    times[place].append(1000 * float(spent) / (min(count, start + BATCH) - start))
            if hashes[0] != hashes[1]:
                raise RuntimeError(f"the pixels of files {start} to {start + BATCH} differ")
    for server in servers:
        server.communicate()
    for name, own in zip(names, times, strict=True):
        ratio = statistics.median(old / mine for old, mine in zip(times[0], own, strict=True))
        print(
            f"{name:8s} {statistics.median(own):6.3f} ms of CPU per picture, old / {name} {ratio:.3f} median of pairs"
        )
    print("equal pixels")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pythons", nargs=2, help="two interpreters: before and after")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only-pillow", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.serve:
        return serve(arguments.serve, arguments.only_pillow)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pictures(Path(folder), arguments.pictures)
        if arguments.pythons:
            return in_turn(arguments.pythons, Path(folder), arguments.pictures, arguments.rounds)
        times = compare(paths)
        per_picture = [1000 * statistics.median(side) / BLOCK for side in zip(*times, strict=True)]
        print(f"{arguments.pictures} pictures, half JPEG, half PNG, to {tuple(dict(processors()[0].size).values())}")
        print(f"MMImageProcessorPil    {per_picture[0]:6.2f} ms per picture")
        print(f"BlipImageProcessorPil  {per_picture[1]:6.2f} ms per picture")
        print(f"ratio BLIP / MM        {statistics.median(blip / mine for mine, blip in times):6.2f} median of pairs")
        if arguments.workers:
            for name, value in scaling(paths, arguments.workers, arguments.rounds).items():
                print(f"{name:28s} {value:5.2f}")


if __name__ == "__main__":
    main()
