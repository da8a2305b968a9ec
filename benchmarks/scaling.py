"""How the cost of writing and answering grows: with the tokens of a picture, beams, questions, batch and candidates.

    python benchmarks/scaling.py --threads 2 --log benchmarks/logs/scaling.txt

A captioner of BLIP-base's size with random weights reads contexts of random states; its exponent is the slope of
log(seconds) over log(size). "floor" is the time that the machine needs at least for a step: the bytes of weights, keys
and values over its bandwidth, or the multiplications over its peak, the larger one; both are measured first.
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
import transformers
from inference import MEDIUM, converted, drawn, pictures, search, words

import mm

TOKENS = 8  # new tokens of a text
CONTEXTS = [197, 577, 1025, 2305, 4097, 9216]  # tokens of pictures of 224 to 1,536 px, in squares of 16
BEAMS = [1, 2, 4, 8, 16]
QUESTIONS = BATCHES = [1, 4, 16, 64]
CANDIDATES = [16, 64, 256, 1024, 4096]


def bandwidth() -> float:
    """Bytes a second, read one after the other."""
    numbers = torch.ones(1 << 26)
    return 4 * numbers.numel() / best(numbers.sum)


def peak() -> float:
    """Multiplications with additions a second, of two large fp32 matrices, by the faster of the two products."""
    layer, states = torch.nn.Linear(3072, 3072), torch.randn(2048, 3072)
    seconds = []
    for onednn in (False, True):
        mm.use_onednn(onednn)
        seconds.append(best(partial(mm.modeling_mm.core.linear.linear, layer, states)))
    mm.use_onednn(None)
    return states.shape[0] * layer.weight.numel() / min(seconds)


def best(way: Callable[[], Any], turns: int = 5) -> float:
    return min(harness.clocked(way).wall for _ in range(turns))


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
        sizes = {**MEDIUM, "encoder_hidden_size": MEDIUM["hidden_size"]} if asked.tiny else {}
        vision = {"image_size": 224, **(MEDIUM if asked.tiny else {})}
        config = transformers.BlipConfig(vision_config=vision, text_config=sizes)
        self.start = config.text_config.bos_token_id
        self.model = converted(drawn(transformers.BlipForConditionalGeneration(config)))
        self.encoded = self.model.encode_context(pixel_values=pictures(1, 224))
        self.bandwidth, self.peak = bandwidth(), peak()
        self.report.say(
            f"measured: {self.bandwidth / 1e9:.1f} GB/s, {self.peak / 1e9:.0f} G multiplications a second\n"
        )

    def write(self, batch: int, tokens: int, beams: int) -> Callable[[], Any]:
        given = {"encoder_outputs": context_of(self.encoded, batch, tokens), **search(beams, TOKENS)}
        return partial(self.model.generate, input_ids=torch.full((batch, 1), self.start), **given)

    def floor(self, batch: int, tokens: int, beams: int) -> float:
        """Seconds of TOKENS steps and of the keys and values of the contexts, at best."""
        stack = self.model.model.language_model
        cross = [layer.cross_attn for layer in stack.layers]
        context = sum(part.weight.numel() for one in cross for part in (one.k_proj, one.v_proj))
        step = (
            sum(weight.numel() for weight in stack.layers.parameters()) - context + self.model.lm_head.weight.numel()
        )
        read = 4 * batch * tokens * sum(one.k_proj.out_features + one.v_proj.out_features for one in cross)
        rows = batch * beams
        attended = rows * tokens * sum(one.k_proj.out_features + one.v_proj.out_features for one in cross)
        return batch * tokens * context / self.peak + TOKENS * max(
            (4 * step + read) / self.bandwidth, (rows * step + attended) / self.peak
        )

    def measure(self, title: str, sizes: list[int], work: Callable[[int], Any]) -> list[float]:
        """`work` of a size: (batch, tokens, beams) to write, or what to run."""
        sizes = sizes[:3] if self.asked.tiny else sizes
        seconds, lines = [], []
        for size in sizes:
            given = work(size)
            run = given if callable(given) else self.write(*given)
            run()
            seconds.append(min(harness.clocked(run).wall for _ in range(self.asked.pairs)))
            floor = "" if callable(given) else f"{seconds[-1] / self.floor(*given):8.1f} times the floor"
            lines.append(f"{size:8}{seconds[-1]:10.3f} s{floor}")
        power = exponent(sizes, seconds)
        self.report.say("\n".join([f"{title}: exponent {power:.2f}", *lines]))
        self.report.row(work=title, sizes=sizes, seconds=seconds, exponent=power)
        return seconds


def main(arguments: list[str] | None = None) -> int:
    asked = harness.options(__doc__, pairs=3).parse_args(arguments)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
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
    if not asked.tiny:
        report.want("the first beam against five further ones", 1 / (5 * extra), 1.0)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
