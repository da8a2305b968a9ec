"""`mm caption` of a folder beside an earlier version of it: pictures per second and equal captions.

    git worktree add --detach /tmp/old 4496661
    python benchmarks/caption_folder.py --against /tmp/old     # alternating pairs; the middle of their ratios

The folder is made: COUNT JPEGs and PNGs of 200 to 2000 pixels from the sample pictures, the same ones each time.
"""

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PICTURES = sorted((ROOT / "examples" / "pictures").glob("*.png"))
RUN = "import sys; sys.argv[0] = 'mm'; import mm_console; mm_console.main()"


def make_folder(folder: Path, count: int) -> None:
    draw = random.Random(0)
    for number in range(count):
        with Image.open(PICTURES[number % len(PICTURES)]) as picture:
            side = draw.randrange(200, 2000)
            whole = Image.new("RGB", (side, int(side * draw.uniform(0.5, 1))), "white")
            part = picture.convert("RGBA").resize((whole.height, whole.height))
            whole.paste(part, (draw.randrange(whole.width - whole.height + 1), 0), part)
        whole.save(folder / f"{number:04}.{'png' if number % 4 == 0 else 'jpg'}")


def run(package: Path, folder: Path) -> tuple[float, float, str]:
    """(seconds, CPU seconds, output) of mm caption by the package in a folder."""
    with tempfile.TemporaryDirectory() as beside:
        link = Path(beside, "mm")
        link.symlink_to(package)
        environment = {**os.environ, "PYTHONPATH": f"{beside}:{package}"}
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", RUN, "caption", str(folder)], capture_output=True, text=True,
            env=environment, check=True, cwd=beside,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return time.perf_counter() - start, used, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, help="checkout of the earlier version")
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, one = Path(name, "many"), Path(name, "one")
        for place, count in ((folder, given.count), (one, 1)):
            place.mkdir()
            make_folder(place, count)
        ratios = []
        for _ in range(given.pairs):
            seconds = {}
            for version, package in (("before", given.against.resolve()), ("now", ROOT)):
                start, _, _ = run(package, one)  # what importing and loading take
                whole, used, said = run(package, folder)
                seconds[version] = whole - start
                rate = (given.count - 1) / seconds[version]
                print(f"{version:7} {rate:6.1f} pictures/s beside start-up, {used:6.1f} CPU-s in all", flush=True)
                seconds[version, "said"] = said
            assert seconds["before", "said"] == seconds["now", "said"], "the captions differ"
            ratios.append(seconds["before"] / seconds["now"])
        pairs = " ".join(f"{one:.2f}" for one in ratios)
        print(f"times the pictures per second: {statistics.median(ratios):.2f} (pairs {pairs})")


if __name__ == "__main__":
    main()
