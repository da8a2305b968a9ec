"""Memory and time of the loss over a vocabulary, without logits and with them, forward and backward, on the CPU.

    OMP_NUM_THREADS=1 python benchmarks/chunked_cross_entropy.py     # the table of benchmarks/logs

1024 positions (16 captions of 64 tokens) of width 768 in fp32; every position has a label.

* memory: the peak of the process above its inputs, each in a process of its own, less the bytes of the gradients,
  which both need; `with gradients` counts those too.
* time: CPU seconds, the median of alternating pairs in one process; the ratio is the median of the pairs' ratios.
"""

import sys
from functools import partial

import harness
import torch
from torch.nn.functional import linear

from mm.modeling_mm.losses.token_losses import CHUNK_ROWS, chunked_cross_entropy, token_loss

POSITIONS, WIDTH = 1024, 768
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


def measure_memory(method: str, vocabulary: int) -> None:
    """Prints MiB above inputs and gradients, and above the inputs; to be run in a process of its own."""
    METHODS[method](*inputs(1000, 8)).backward()  # what libraries load once
    given = inputs(vocabulary)
    before = harness.settled()
    METHODS[method](*given).backward()
    peak = (harness.status("VmHWM") - before) / 2**20
    print(peak - sum(leaf.numel() * leaf.itemsize for leaf in given[:3]) / 2**20, peak)


def step(method: str, given: list[torch.Tensor]) -> torch.Tensor:
    for leaf in given[:3]:
        leaf.grad = None
    loss = METHODS[method](*given)
    loss.backward()
    return loss


def main() -> int:
    asked = harness.options(__doc__).parse_args()
    report = harness.Report(asked)
    report.say(f"{POSITIONS} positions, width {WIDTH}, fp32, chunks of {CHUNK_ROWS} rows, {asked.pairs} pairs\n")
    report.say("| vocabulary | loss | memory MiB | with gradients MiB | CPU s |\n|---|---|---|---|---|")
    for vocabulary in (3_000,) if asked.tiny else VOCABULARIES:
        held = {method: harness.alone(__file__, method, str(vocabulary)) for method in METHODS}
        given = inputs(vocabulary)
        report.equal("loss", step("chunked", given).detach(), step("full", given).detach(), atol=1e-5)
        costs = harness.in_turn({method: partial(step, method, given) for method in METHODS}, asked.pairs)
        for method, (memory, whole) in held.items():
            seconds = harness.median(costs[method])
            report.say(f"| {vocabulary} | {method} | {memory:.0f} | {whole:.0f} | {seconds:.2f} |")
            report.row(vocabulary=vocabulary, loss=method, memory=memory, with_gradients=whole, cpu=seconds)
        parts = [ours / theirs for ours, theirs in zip(held["chunked"], held["full"], strict=True)]
        ratio = harness.ratio(costs["chunked"], costs["full"]).median
        report.say(f"| {vocabulary} | chunked / full | {parts[0]:.3f} | {parts[1]:.3f} | {ratio:.3f} |")
    return report.end()


if __name__ == "__main__":
    sys.exit(measure_memory(sys.argv[1], int(sys.argv[2])) if sys.argv[1:2] in (["full"], ["chunked"]) else main())
