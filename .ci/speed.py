"""What may not take long, in CPU seconds, beside what `import transformers` takes on the same machine: `import mm`,
`mm --help`, and the worst of the hostile files in tests/attacks.

The best of some attempts counts: a busy machine makes times longer, never shorter. What `import mm` adds is timed
inside the process that imported Transformers: the difference of two processes would be mostly their noise. Run from
the root of the repository with the interpreter of the environment to measure: .venv/bin/python .ci/speed.py
"""

import contextlib
import resource
import subprocess
import sys
import sysconfig
import time
import warnings
from pathlib import Path

ATTEMPTS = 3
TRANSFORMERS = "from transformers import AutoModel, GenerationMixin, PreTrainedModel, ProcessorMixin"
MM = str(Path(sysconfig.get_path("scripts")) / "mm")


def seconds(*command: str) -> float:
    """CPU seconds of a process and its children, the least of some runs."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    return min(once() for _ in range(ATTEMPTS))


def seconds_beyond(first: str, second: str) -> float:
    """CPU seconds of the statement `second` in a process that has run `first`, the least of some processes."""
    program = f"import time\n{first}\nstart = time.process_time()\n{second}\nprint(time.process_time() - start)"

    def once() -> float:
        printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
        return float(printed.splitlines()[-1])

    return min(once() for _ in range(ATTEMPTS))


def slowest_file() -> float:
    """CPU seconds of the file that takes longest, read as a picture, as a film and as a sound."""
    from mm import MediaDecodeError
    from mm.processing.images.load import load_image
    from mm.processing.sounds.load import load_sound
    from mm.processing.videos.load import load_video

    warnings.simplefilter("ignore")  # Pillow on the damage it finds
    times = [0.0]
    for path in sorted(Path("tests/attacks").rglob("*.*")):
        if path.suffix in (".py", ".pyc", ".txt"):
            continue
        for load in (load_image, load_video, lambda source: load_sound(source, 16000)):
            start = time.process_time()
            with contextlib.suppress(MediaDecodeError):
                load(path)
            times.append(time.process_time() - start)
    return max(times)


def main() -> int:
    transformers = seconds(sys.executable, "-c", TRANSFORMERS)
    found = {  # what, seconds, the most it may be of `import transformers`
        "import mm, beyond it": (seconds_beyond(TRANSFORMERS, "import mm"), 0.1),
        "mm --help": (seconds(MM, "--help"), 0.1),
        "the slowest hostile file": (slowest_file(), 0.5),
    }
    print(f"import transformers: {transformers:.2f} s")
    for name, (spent, limit) in found.items():
        print(f"{name}: {spent:.2f} s, {spent / transformers:.3f} of it; at most {limit}")
    return int(any(spent > limit * transformers for spent, limit in found.values()))


if __name__ == "__main__":
    sys.exit(main())
