"""How the cost of writing and answering grows: with the tokens of a picture, beams, questions, batch and candidates.

    python benchmarks/scaling.py --threads 2 --log benchmarks/logs/scaling.txt

A captioner of BLIP-base's size with random weights reads contexts of random states; its exponent is the slope of
log(seconds) over log(size). How far each phase is from what the machine could do is told by floor.py.
"""

import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import harness
import torch
from peers import blip, pictures, search, sizes_of, starts, words

TOKENS = 8  # new tokens of a text
CONTEXTS = [197, 577, 1025, 2305, 4097, 9216]  # tokens of pictures of 224 to 1,536 px, in squares of 16
BEAMS = [1, 2, 4, 8, 16]
QUESTIONS = BATCHES = [1, 4, 16, 64]
CANDIDATES = [16, 64, 256, 1024, 4096]


def exponent(sizes: list[int], seconds: list[float]) -> float:
    return statistics.linear_regression([math.log(size) for size in sizes], [math.log(cost) for cost in seconds]).slope


def context_of(encoded: Any, batch: int, tokens: int) -> Any:
    """A context of random states, without a mask."""
    width = encoded.last_hidden_state.shape[-1]
    states = torch.randn(batch, tokens, width, generator=torch.Generator().manual_seed(tokens))
    sources = torch.zeros(batch, tokens, 3, dtype=torch.long)
    sources[..., 2] = torch.arange(tokens)
    pooled = torch.zeros(batch, width)
    return replace(
        encoded, last_hidden_state=states, attention_mask=None, token_sources=sources, pooler_output=pooled,
        vision_output=None, pooler_outputs=None,
    )  # fmt: skip


class Bench:
    def __init__(self, asked: Any):
        self.asked, self.report = asked, harness.Report(asked)
        self.peer, self.model, size = blip(sizes_of(self.report), size=224)
        self.encoded = self.model.encode_context(pixel_values=pictures(1, size))

    def write(self, batch: int, tokens: int, beams: int) -> Callable[[], Any]:
        given = {"encoder_outputs": context_of(self.encoded, batch, tokens), **search(beams, TOKENS)}
        return partial(self.model.generate, input_ids=starts(self.peer, batch), **given)

    def measure(self, title: str, sizes: list[int], work: Callable[[int], Any]) -> list[float]:
        """`work` of a size: (batch, tokens, beams) to write, or what to run."""
        sizes = sizes[:3] if self.asked.tiny else sizes
        seconds, lines = [], []
        for size in sizes:
            given = work(size)
            run = given if callable(given) else self.write(*given)
            run()
            seconds.append(min(harness.clocked(run).wall for _ in range(self.asked.pairs)))
            lines.append(f"{size:8}{seconds[-1]:10.3f} s")
        power = exponent(sizes, seconds)
        self.report.say("\n".join([f"{title}: exponent {power:.2f}", *lines]))
        self.report.row(work=title, sizes=sizes, seconds=seconds, exponent=power)
        return seconds


def main(arguments: list[str] | None = None) -> int:
    asked = harness.options(__doc__, pairs=3).parse_args(arguments)
    with torch.no_grad():
        bench = Bench(asked)
        model, report = bench.model, bench.report
        bench.measure("tokens of a picture, 4 beams", CONTEXTS, lambda n: (1, n, 4))
        beams = bench.measure("beams, 577 tokens", BEAMS, lambda n: (1, 577, n))
        bench.measure("batch, 3 beams, 577 tokens", BATCHES, lambda n: (n, 577, 3))
        context = context_of(bench.encoded, 1, 577)

        def questions(count: int) -> Callable[[], Any]:
            given = {"encoder_outputs": context, "context_index": torch.zeros(count, dtype=torch.long)}
            return partial(model.generate, input_ids=words(count, 12), **given, **search(1, TOKENS))

        bench.measure("questions of 12 words about one picture", QUESTIONS, questions)

        def ranked(count: int) -> Callable[[], Any]:
            answers = words(count, 5)
            return partial(model.rank_answers, answers, input_ids=words(1, 12), encoder_outputs=context)

        bench.measure("candidates of rank_answers, 5 words each", CANDIDATES, ranked)
    extra = (beams[-1] / beams[0] - 1) / (BEAMS[len(beams) - 1] - 1)
    report.say(f"\neach further beam costs {extra:.2f} of the first")
    report.want("the first beam against five further ones", 1 / (5 * max(extra, 1e-3)), 1.0)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
