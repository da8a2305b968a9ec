"""What else one may do on a CPU with the same captioner: torch's own products, bf16, int8, ONNX Runtime.

    python benchmarks/cpu_options.py --threads 2 --log benchmarks/logs/cpu_options.txt
    PYTHONPATH=build/torchao-0.18.0 python benchmarks/cpu_options.py    # with int8, once torchao is there

BLIP-base at 384 px with random weights, 20 tokens a text, from pixels to ids: 5 beams for 4 pictures, and greedy for
one and four. "Ours" is the way of the row, the other MM's own fp32. Of random weights in fewer bits the share of equal
tokens says little, so the largest difference of logits stands beside it, over their standard deviation.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import harness
import torch
import transformers
from inference import MEDIUM, converted, drawn, pictures, search

import mm
from mm.exporting.onnx import export_onnx

WORK = [(4, 5), (4, 1), (1, 1)]  # pictures, beams
Way = Callable[..., Any]


def with_products(model: Any, onednn: bool | None) -> Way:
    def generate(**given: Any) -> torch.Tensor:
        mm.use_onednn(onednn)
        try:
            return model.generate(**given)
        finally:
            mm.use_onednn(None)

    return generate


def in_bf16(model: Any) -> Way:
    return lambda pixel_values, **given: model.generate(pixel_values=pixel_values.bfloat16(), **given)


def in_onnx(model: Any, folder: str, threads: int) -> Way:
    export_onnx(model, None, folder)
    graphs = mm.OnnxGenerator(folder, num_threads=threads)

    def generate(pixel_values, input_ids, num_beams, max_new_tokens, **_: Any) -> torch.Tensor:
        given = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
        return torch.from_numpy(graphs.generate(pixel_values.numpy(), input_ids.numpy(), **given))

    return generate


def others(build: Callable[[], Any], folder: str, threads: int) -> Iterator[tuple[str, Way, Any]]:
    """Name, way and its model (None: no torch model)."""
    yield "fp32, torch's products", with_products(build(), False), None
    bf16 = build().bfloat16()
    yield "bf16", in_bf16(bf16), bf16
    try:
        from torchao.quantization import (  # pyright: ignore[reportMissingImports]
            Int8DynamicActivationInt8WeightConfig,
            Int8WeightOnlyConfig,
            quantize_,
        )
    except ImportError:
        pass
    else:
        for name, config in (
            ("int8 weights", Int8WeightOnlyConfig()),
            ("int8 weights and activations", Int8DynamicActivationInt8WeightConfig()),
        ):
            quantized = build()
            quantize_(quantized.model.language_model, config)
            yield name, quantized.generate, quantized
    yield "ONNX Runtime", in_onnx(build(), folder, threads), None


def main(arguments: list[str] | None = None) -> int:
    asked = harness.options(__doc__, pairs=3).parse_args(arguments)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    report = harness.Report(asked)
    size, sizes = (192, MEDIUM) if asked.tiny else (384, {})
    config = transformers.BlipConfig(vision_config={"image_size": size, **sizes}, text_config=sizes)
    peer = drawn(transformers.BlipForConditionalGeneration(config))
    start = config.text_config.bos_token_id

    def build() -> Any:
        model = converted(peer)
        ends = {"eos_token_id": None, "pad_token_id": 0}  # every text has its 20 tokens, in every runtime
        model.generation_config.update(**ends)
        return model

    def given(count: int, beams: int) -> dict[str, Any]:
        ids = torch.full((count, 1), start)
        return {"pixel_values": pictures(count, size), "input_ids": ids, **search(beams)}

    model = build()
    plain = with_products(model, None)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        wanted = {work: plain(**given(*work)) for work in WORK}
        pixels = given(2, 1)["pixel_values"]
        ids = torch.full((2, 4), start + 1)
        logits = model(pixel_values=pixels, input_ids=ids).logits
        report.titles()
        for name, way, other in others(build, folder, torch.get_num_threads()):
            equal = []
            for count, beams in WORK:
                asked_of = given(count, beams)
                found, plainly = way(**asked_of), wanted[count, beams]
                width = min(found.shape[1], plainly.shape[1])
                equal.append((found[:, :width] == plainly[:, :width]).float().mean().item())
                ways = partial(way, **asked_of), partial(plain, **asked_of)
                report.race(f"{name}; {count} pictures, {beams} beams", *ways, 0.0, "own fp32", warm_up=0)
            told = f"  equal tokens {sum(equal) / len(equal):.2f}"
            if other is not None:
                dtype = next(other.parameters()).dtype
                seen = other(pixel_values=pixels.to(dtype), input_ids=ids).logits
                told += f", logits apart {((seen.float() - logits).abs().max() / logits.std()).item():.3f}"
            report.say(told)
            report.row(way=name, equal=equal)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
