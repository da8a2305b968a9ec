"""Reads broken pictures, sounds or films: each must give what it is or a MediaDecodeError, in time and in memory.

python tests/fuzz/run_images.py [--kind image|audio|video] --cases 1000000 [--first 0]
    prints a line of figures; exits 1 with the case that fell
"""

import argparse
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from mutations import image_seeds, mutated  # noqa: E402  # pyright: ignore[reportImplicitRelativeImport]

MAX_SECONDS = 2.0
MAX_RESIDENT = 10**9
ADDRESS_SPACE = 8 * 2**30


def resident() -> int:
    """Bytes of memory that this process has ever had at once."""
    # not ru_maxrss, which begins with that of the process that started this one
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def reader_of(kind: str) -> tuple[list[bytes], Callable[[bytes], Any]]:
    """The seeds of a kind, and what reads them as the processor does."""
    if kind == "audio":
        from clip_seeds import sound_seeds  # pyright: ignore[reportImplicitRelativeImport]

        from mm.processing.sounds.load import load_sound

        return sound_seeds(), partial(load_sound, sampling_rate=16000)
    if kind == "video":
        from clip_seeds import film_seeds  # pyright: ignore[reportImplicitRelativeImport]

        from mm.processing.videos.load import load_video

        return film_seeds(), partial(load_video, num_frames=4)
    from mm.processing.images.processor import MMImageProcessorPil

    return image_seeds(), MMImageProcessorPil(size={"height": 32, "width": 32}).load


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--kind", choices=("image", "audio", "video"), default="image")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    from mm.processing.images.load import MediaDecodeError

    warnings.simplefilter("ignore")  # Pillow on the damage it finds
    sys.stderr = open(os.devnull, "w")  # libtiff writes there
    seeds, load = reader_of(arguments.kind)
    read, slowest, slow_case = 0, 0.0, 0
    before = resident()
    for number in range(arguments.first, arguments.first + arguments.cases):
        data = mutated(seeds, number)
        start = time.process_time()
        try:
            load(data)
            read += 1
        except MediaDecodeError:
            pass
        except BaseException as fault:
            print(f"case {number}: {type(fault).__name__}: {fault}")
            return 1
        seconds = time.process_time() - start
        if seconds > slowest:
            slowest, slow_case = seconds, number
        if seconds > MAX_SECONDS or resident() > MAX_RESIDENT:
            print(f"case {number}: {seconds:.2f} s of CPU time, {resident() / 1e6:.0f} MB resident")
            return 1
    print(
        f"{arguments.cases} cases, {read} read, slowest {slowest:.2f} s (case {slow_case}), "
        f"resident {before / 1e6:.0f} MB before and {resident() / 1e6:.0f} MB at most"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
