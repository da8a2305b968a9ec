"""How far each phase of writing is from what this machine could do: bytes over bandwidth, operations over peak.

    python benchmarks/floor.py --threads 2 --log benchmarks/logs/floor.txt
    python benchmarks/floor.py blip                 # one family

BLIP-base (384 px, 5 beams), GIT-base and ViT-GPT2 (224 px, 4 beams) with random weights, batches of 1 and 8. Phases:

    encode       pictures to a context
    context      keys and values of a context: cross-attention's of BLIP, of GIT's prefix in all layers; the first
                 step of a text less a later one
    decode step  one token of each beam through the decoder
    head         its states to logits over the vocabulary

The bandwidth is that of reading 256 MiB, the peak that of two large fp32 products; both are measured first. Bytes are
weights, keys and values, read once; operations are counted by torch.utils.flop_counter while the phase runs with eager
attention (a multiplication and an addition are one here, as in the peak). floor: the longer of the two times. The
operations of torch that take most of a phase come from torch.profiler.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import harness
import torch
import transformers
from harness import Report, Row
from peers import blip as blip_pair
from peers import converted, drawn, pictures, sizes_of, vit_gpt2
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import mm
from mm.modeling_mm.core.linear import linear

TITLES = f"{'':34}{'ms':>9}{'MB':>9}{'GMAC':>9}{'floor ms':>10}{'bound by':>11}{'times':>7}  most time in"


def best(way: Callable[[], Any], turns: int = 5) -> float:
    """Seconds."""
    return min(harness.clocked(way).wall for _ in range(turns))


def bandwidth() -> float:
    """Bytes a second, read one after the other."""
    numbers = torch.ones(1 << 26)
    return 4 * numbers.numel() / best(numbers.sum)


def peak() -> float:
    """Multiplications with additions a second, of two large fp32 matrices, by the faster of the two products."""
    layer, states, seconds = torch.nn.Linear(3072, 3072), torch.randn(2048, 3072), []
    for onednn in (False, True):
        mm.use_onednn(onednn)
        seconds.append(best(partial(linear, layer, states)))
    mm.use_onednn(None)
    return states.shape[0] * layer.weight.numel() / min(seconds)


@dataclass
class Phase:
    """What runs; `less` is what it does beside the phase. bytes: of weights, keys and values that it reads."""

    name: str
    run: Callable[[], Any]
    bytes: int
    less: Callable[[], Any] | None = None


def operations(model: Any, way: Callable[[], Any]) -> int:
    """Multiplications with additions, counted where every product is one of torch's own."""
    attention = model.config._attn_implementation
    model.set_attn_implementation("eager")
    mm.use_onednn(False)
    try:
        with FlopCounterMode(display=False) as counter:
            way()
    finally:
        mm.use_onednn(None)
        model.set_attn_implementation(attention)
    return counter.get_total_flops() // 2


def most_time(way: Callable[[], Any]) -> str:
    """The three operations with most CPU time of their own, and their shares."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        way()
    events = sorted(found.key_averages(), key=lambda one: -one.self_cpu_time_total)
    whole = sum(one.self_cpu_time_total for one in events)
    return ", ".join(f"{one.key.removeprefix('aten::')} {one.self_cpu_time_total / whole:.0%}" for one in events[:3])


def weights(*modules: Any) -> int:
    """Bytes, a tied weight once."""
    found = {id(weight): weight.nbytes for module in modules for weight in module.parameters()}
    return sum(found.values())


def held(cache: Any) -> int:
    """Bytes of the keys and values of contexts and rows; what two layers share counts once."""
    halves = (cache.cross_attention_cache, cache.self_attention_cache)
    states = [one for half in halves for layer in half.layers for one in (layer.keys, layer.values) if one is not None]
    storages = {one.untyped_storage().data_ptr(): one.nbytes for one in states}
    return sum(storages.values())


def phases(model: Any, pixels: torch.Tensor, beams: int) -> list[Phase]:
    """The four phases of writing about a batch."""
    base, rows = model.model, len(pixels) * beams
    ids = torch.full((rows, 1), model.config.text_config.bos_token_id)
    context = model.encode_context(pixel_values=pixels)

    def first(tokens: int = 1) -> Any:
        return model(input_ids=ids.expand(-1, tokens), encoder_outputs=context, use_cache=True)

    cache = first().past_key_values
    size, text = held(cache), base.language_model

    def step() -> Any:
        return model(input_ids=ids, past_key_values=cache, attention_mask=torch.ones(rows, 2), use_cache=True)

    def one_step() -> Any:
        found = step()
        cache.crop(-1)
        return found

    hidden = torch.randn(rows, text.config.hidden_size)
    head_parts = [part for name, part in model.named_children() if name.startswith("lm_head")]

    def head() -> torch.Tensor:
        states = hidden if len(head_parts) == 1 else model.lm_head_transform(hidden)
        return linear(model.lm_head, states)

    crossed = [one.cross_attn for one in text.layers if getattr(one, "cross_attn", None) is not None]
    of_context = weights(*(part for one in crossed for part in (one.k_proj, one.v_proj)))
    states = 4 * context.last_hidden_state.numel()
    return [
        Phase("encode", partial(model.encode_context, pixel_values=pixels), weights(base) - weights(text)),
        Phase("context", first, (of_context or weights(text.layers)) + states + size, one_step),
        Phase("decode step", one_step, weights(text.layers) - of_context + size, head),
        Phase("head", head, weights(*head_parts)),
    ]


def tabled(report: Report, name: str, model: Any, limits: tuple[float, float], found: list[Phase]) -> None:
    for phase in found:
        ways = [way for way in (phase.run, phase.less) if way]
        seconds, macs = [best(way) for way in ways], [operations(model, way) for way in ways]
        taken, counted = (own[0] - sum(own[1:]) for own in (seconds, macs))
        by_bytes, by_work = phase.bytes / limits[0], counted / limits[1]
        floor, bound = max(by_bytes, by_work), "memory" if by_bytes > by_work else "products"
        most = most_time(phase.run)
        report.say(
            f"{f'{name}, {phase.name}':34}{1000 * taken:9.2f}{phase.bytes / 1e6:9.1f}{counted / 1e9:9.2f}"
            f"{1000 * floor:10.2f}{bound:>11}{taken / floor:7.1f}  {most}"
        )
        report.row(
            model=name, phase=phase.name, seconds=taken, bytes=phase.bytes, operations=counted, floor=floor,
            bound=bound, times=taken / floor, most=most,
        )  # fmt: skip


def family(of: str, report: Report) -> Iterator[Row]:
    sizes = sizes_of(report)
    if of == "blip":
        _, model, size = blip_pair(sizes)
        beams, title = 5, "BLIP-base"
    elif of == "git":
        config = transformers.GitConfig(vision_config={**sizes}, **sizes)
        model, size, beams, title = converted(drawn(transformers.GitForCausalLM(config))), 224, 4, "GIT-base"
    else:
        model, size, beams, title = vit_gpt2(sizes)[1], 224, 4, "ViT-GPT2"
    limits = bandwidth(), peak()
    report.say(f"\nmeasured: {limits[0] / 1e9:.1f} GB/s, {limits[1] / 1e9:.0f} G multiplications a second\n{TITLES}")
    report.row(bandwidth=limits[0], peak=limits[1], of=title)
    with torch.no_grad():
        for batch in (1, 8):
            found = phases(model, pictures(batch, size), beams)
            tabled(report, f"{title}, batch {batch}", model, limits, found)
    yield from ()


def main(arguments: list[str] | None = None) -> int:
    groups = {name: partial(family, name) for name in ("blip", "git", "vit-gpt2")}
    return harness.table(harness.options(__doc__), groups, arguments)


if __name__ == "__main__":
    sys.exit(main())
