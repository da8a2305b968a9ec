"""Memory and time of the loss over a vocabulary, without logits and with them, forward and backward, on the CPU.

    OMP_NUM_THREADS=1 python benchmarks/chunked_cross_entropy.py     # the table of benchmarks/logs

1024 positions (16 captions of 64 tokens) of width 768 in fp32; every position has a label.

* memory: the peak of the process above its inputs, each in a process of its own, less the bytes of the gradients,
  which both need; `with gradients` counts those too.
* time: CPU seconds, the median of alternating pairs in one process; the ratio is the median of the pairs' ratios.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.nn.functional import linear

from mm.modeling_mm.losses.token_losses import CHUNK_ROWS, chunked_cross_entropy, token_loss

POSITIONS, WIDTH, PAIRS = 1024, 768, 5
VOCABULARIES = (30_522, 250_002)  # BERT's and XLM-R's


def full(hidden, weight, bias, targets) -> torch.Tensor:
    return token_loss(linear(hidden, weight, bias), targets)


def chunked(hidden, weight, bias, targets) -> torch.Tensor:
    return chunked_cross_entropy(hidden, weight, targets, bias)


METHODS = {"full": full, "chunked": chunked}


def inputs(vocabulary: int, positions: int = POSITIONS) -> list[torch.Tensor]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(positions, WIDTH), torch.randn(vocabulary, WIDTH).mul_(0.02)
    leaves = [x.requires_grad_() for x in (hidden, weight, torch.zeros(vocabulary))]
    return [*leaves, torch.randint(0, vocabulary, (positions,))]


def kilobytes(name: str) -> int:
    """VmRSS, what the process holds now, or VmHWM, the most it ever held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def measure_memory(method: str, vocabulary: int) -> None:
    """Prints MiB above inputs and gradients, and above the inputs; to be run in a process of its own."""
    METHODS[method](*inputs(1000, 8)).backward()  # what libraries load once
    given = inputs(vocabulary)
    before = kilobytes("VmRSS")
    METHODS[method](*given).backward()
    peak = (kilobytes("VmHWM") - before) / 1024
    print(peak - sum(leaf.numel() * leaf.itemsize for leaf in given[:3]) / 2**20, peak)


def memory(method: str, vocabulary: int) -> list[float]:
    command = [sys.executable, __file__, method, str(vocabulary)]
    return [float(x) for x in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()]


def seconds(method: str, given: list[torch.Tensor]) -> float:
    for leaf in given[:3]:
        leaf.grad = None
    start = time.process_time()
    METHODS[method](*given).backward()
    return time.process_time() - start


def times(vocabulary: int) -> tuple[dict[str, float], float]:
    """Median seconds of each method, and the median ratio."""
    given = inputs(vocabulary)
    found = {method: [] for method in METHODS}
    for _ in range(PAIRS + 1):
        for method in METHODS:
            found[method].append(seconds(method, given))
    found = {method: each[1:] for method, each in found.items()}  # the first pair warms up
    ratio = statistics.median(ours / theirs for ours, theirs in zip(found["chunked"], found["full"], strict=True))
    return {method: statistics.median(each) for method, each in found.items()}, ratio


def main() -> None:
    load = " ".join(f"{x:.1f}" for x in os.getloadavg())
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), load before {load}")
    print(f"{POSITIONS} positions, width {WIDTH}, fp32, chunks of {CHUNK_ROWS} rows, {PAIRS} pairs\n")
    print("| vocabulary | loss | memory MiB | with gradients MiB | CPU s |\n|---|---|---|---|---|")
    for vocabulary in VOCABULARIES:
        held = {method: memory(method, vocabulary) for method in METHODS}
        took, ratio = times(vocabulary)
        for method in METHODS:
            print(f"| {vocabulary} | {method} | {held[method][0]:.0f} | {held[method][1]:.0f} | {took[method]:.2f} |")
        parts = [ours / theirs for ours, theirs in zip(held["chunked"], held["full"], strict=True)]
        print(f"| {vocabulary} | chunked / full | {parts[0]:.3f} | {parts[1]:.3f} | {ratio:.3f} |", flush=True)
    print("\nload after " + " ".join(f"{x:.1f}" for x in os.getloadavg()))


if __name__ == "__main__":
    measure_memory(sys.argv[1], int(sys.argv[2])) if len(sys.argv) > 1 else main()
