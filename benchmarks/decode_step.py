"""CPU time of one decode step: what generate() of mm-tiny costs per new token, on one thread.

    python benchmarks/decode_step.py                          # this checkout
    python benchmarks/decode_step.py OLD_PYTHON NEW_PYTHON    # two environments in turn, and the ratio

A step is a long generate() less a short one, over the tokens between them. Two interpreters stay alive and take turns
after every step, as caches and clocks of a shared machine change from second to second; the ratio is the median over
the pairs of neighbours. Each imports the `mm` installed in its environment and reads the same checkpoint; both must
write the same tokens, greedily and with 3 beams.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

CHECKPOINT = Path(__file__).resolve().parents[1] / "checkpoints" / "mm-tiny"
SHORT, LONG = 4, 64  # new tokens


def writer() -> tuple[Callable[..., list[int]], dict[str, str]]:
    """generate() of mm-tiny by the number of new tokens, and the versions it runs with."""
    import torch
    import transformers
    from transformers import AutoModelForImageTextToText

    import mm  # noqa: F401  registers the classes

    torch.set_num_threads(1)
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT).eval()
    size = model.config.vision_config.image_size
    pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    never = 0  # padding: an end of text that is never written, so that no text ends early

    def write(length: int, num_beams: int = 1) -> list[int]:
        written = model.generate(pixel_values=pixels, eos_token_id=never, max_new_tokens=length, num_beams=num_beams)
        return written[0].tolist()

    return write, {"torch": torch.__version__, "transformers": transformers.__version__}


def checked_tokens(write: Callable[..., list[int]]) -> list[int]:
    """Greedy tokens, then those of 3 beams."""
    tokens = write(LONG)
    if len(tokens) != LONG + 1 or write(SHORT) != tokens[: SHORT + 1]:
        raise RuntimeError("a text ended early, or the short one is not the beginning of the long one")
    return tokens + write(LONG, num_beams=3)


def milliseconds_per_token(write: Callable[..., list[int]]) -> float:
    def cost(length: int) -> float:
        start = time.process_time()
        write(length)
        return time.process_time() - start

    return (cost(LONG) - cost(SHORT)) / (LONG - SHORT) * 1000


def answer_each_line() -> None:
    """One step for every line of the standard input, after the tokens and versions."""
    write, versions = writer()
    print(json.dumps({"tokens": checked_tokens(write), **versions}), flush=True)
    for _ in sys.stdin:
        print(milliseconds_per_token(write), flush=True)


class Worker:
    """An interpreter that measures a step whenever it is asked."""

    def __init__(self, python: str):
        pipe = subprocess.PIPE
        command = [python, "-W", "ignore", __file__, "--worker"]
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        self.start = json.loads(self._line())

    def _line(self) -> str:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise RuntimeError(f"{self.process.args} ended early")
        return line

    def milliseconds(self) -> float:
        if self.process.stdin:
            print(file=self.process.stdin, flush=True)
        return float(self._line())

    def end(self) -> None:
        self.process.communicate()


def in_turn(pythons: list[str], pairs: int) -> None:
    workers = [Worker(python) for python in pythons]
    old, new = workers
    if old.start["tokens"] != new.start["tokens"]:
        raise RuntimeError(f"other tokens: {new.start['tokens']} instead of {old.start['tokens']}")
    versions = f"torch {new.start['torch']}, transformers {new.start['transformers']}"
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {versions}, one thread; load average {os.getloadavg()[0]:.1f}"
    )
    times = []
    for number in range(pairs):  # first one begins, then the other
        first, second = (old, new) if number % 2 == 0 else (new, old)
        taken = {first: first.milliseconds(), second: second.milliseconds()}
        times.append((taken[old], taken[new]))
    for worker in workers:
        worker.end()
    ratios = statistics.quantiles([after / before for before, after in times], n=4)
    for name, own in zip(("before", "after"), zip(*times, strict=True), strict=True):
        print(f"{name}: median {statistics.median(own):.3f} ms of CPU per new token, least {min(own):.3f}")
    print(f"ratio of {pairs} pairs: median {ratios[1]:.3f}, quartiles {ratios[0]:.3f} to {ratios[2]:.3f}")
    print("equal tokens, greedy and with 3 beams")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", help="none, or two interpreters: before and after")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--worker", action="store_true", help="answer each line of the input, for the other program")
    args = parser.parse_args()
    if len(args.pythons) not in (0, 2):
        parser.error(f"no interpreter or two; got {len(args.pythons)}")
    if args.worker:
        answer_each_line()
    elif args.pythons:
        in_turn(args.pythons, args.pairs)
    else:
        write, _ = writer()
        checked_tokens(write)
        print(f"{statistics.median(milliseconds_per_token(write) for _ in range(15)):.3f} ms of CPU per new token")


if __name__ == "__main__":
    sys.exit(main())
