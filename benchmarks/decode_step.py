"""CPU time of one decode step: what generate() of mm-tiny costs per new token, on one thread.

    python benchmarks/decode_step.py                          # this checkout
    python benchmarks/decode_step.py OLD_PYTHON NEW_PYTHON    # two environments in turn, and the ratio

A step is a long generate() less a short one, over the tokens between them: the least of many, as other work on the
machine only adds to the CPU seconds of the process. Each interpreter imports the `mm` installed in its environment and
reads the same checkpoint; both must write the same tokens.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

CHECKPOINT = Path(__file__).resolve().parents[1] / "checkpoints" / "mm-tiny"
SHORT, LONG = 4, 64  # new tokens


def milliseconds_per_token(repeats: int) -> dict:
    import torch
    import transformers
    from transformers import AutoModelForImageTextToText

    import mm  # noqa: F401  registers the classes

    torch.set_num_threads(1)
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT).eval()
    size = model.config.vision_config.image_size
    pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))

    never = 0  # padding: an end of text that is never written, so that no text ends early

    def write(length: int) -> list[int]:
        return model.generate(pixel_values=pixels, eos_token_id=never, max_new_tokens=length)[0].tolist()

    def cost(length: int) -> float:
        start = time.process_time()
        write(length)
        return time.process_time() - start

    tokens = write(LONG)
    if len(tokens) != LONG + 1 or write(SHORT) != tokens[: SHORT + 1]:
        raise RuntimeError("a text ended early, or the short one is not the beginning of the long one")
    steps = [(cost(LONG) - cost(SHORT)) / (LONG - SHORT) * 1000 for _ in range(repeats)]
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"ms": min(steps), "tokens": tokens, **versions}


def in_turn(pythons: list[str], rounds: int, repeats: int) -> None:
    """Every round runs each interpreter once; the ratio is the median over the rounds."""
    times: list[list[float]] = [[] for _ in pythons]
    ratios: list[float] = []
    tokens = None
    for number in range(1, rounds + 1):
        for python, own in zip(pythons, times, strict=True):
            command = [python, __file__, "--json", "--repeats", str(repeats)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            if tokens is not None and found["tokens"] != tokens:
                raise RuntimeError(f"{python} writes other tokens: {found['tokens']} instead of {tokens}")
            tokens = found["tokens"]
            own.append(found["ms"])
            if number == 1:
                print(f"torch {found['torch']}, transformers {found['transformers']}, {platform.machine()}")
        ratios.append(times[1][-1] / times[0][-1])
        print(f"round {number}: {times[0][-1]:.3f} ms, {times[1][-1]:.3f} ms per token, ratio {ratios[-1]:.3f}")
    old, new = (statistics.median(own) for own in times)
    print(f"median: {old:.3f} ms, {new:.3f} ms per token, ratio {statistics.median(ratios):.3f}; equal tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", help="none, or two interpreters: before and after")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one line for a program")
    args = parser.parse_args()
    if len(args.pythons) not in (0, 2):
        parser.error(f"no interpreter or two; got {len(args.pythons)}")
    if args.pythons:
        in_turn(args.pythons, args.rounds, args.repeats)
        return
    found = milliseconds_per_token(args.repeats)
    print(json.dumps(found) if args.json else f"{found['ms']:.3f} ms of CPU per new token")


if __name__ == "__main__":
    sys.exit(main())
