"""Reads broken pictures: each must give an image or a MediaDecodeError, in time and in memory.

python tests/fuzz/run_images.py --cases 1000000 [--first 0]   prints a line of figures; exits 1 with the case that fell
"""

import argparse
import os
import resource
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from mutations import image_seeds, mutated  # noqa: E402  # pyright: ignore[reportImplicitRelativeImport]

MAX_SECONDS = 2.0
MAX_RESIDENT = 10**9
ADDRESS_SPACE = 8 * 2**30


def resident() -> int:
    """Bytes of memory that this process has ever had at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    from mm.processing.image import MMImageProcessorPil
    from mm.processing.media import MediaDecodeError

    warnings.simplefilter("ignore")  # Pillow on the damage it finds
    sys.stderr = open(os.devnull, "w")  # libtiff writes there
    processor = MMImageProcessorPil(size={"height": 32, "width": 32})
    seeds, read, slowest, slow_case = image_seeds(), 0, 0.0, 0
    before = resident()
    for number in range(arguments.first, arguments.first + arguments.cases):
        data = mutated(seeds, number)
        start = time.process_time()
        try:
            processor.load(data)
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
        f"{arguments.cases} cases, {read} read as pictures, slowest {slowest:.2f} s (case {slow_case}), "
        f"resident {before / 1e6:.0f} MB before and {resident() / 1e6:.0f} MB at most"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
