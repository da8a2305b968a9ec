"""What one may do on a CPU with the same weights instead: other precisions, other runtimes, other libraries.

    make bench-cpu                                      # all, with its peers in build/
    PYTHONPATH=build/openvino python benchmarks/cpu.py onnx openvino --threads 2

BLIP-base at 384 px with random weights, 20 tokens a text, from pixels to ids: 5 beams and greedy.

    own        bf16, int8 (torchao) and torch's own products beside MM's fp32. Of random weights in fewer bits the
               share of equal tokens says little, so the largest difference of logits is told, over their deviation
    onnx       ONNX Runtime with `mm export`'s graphs, in which each beam has the keys and values of its picture
    optimum    ONNX Runtime with graphs in the layout of Hugging Face's optimum: encoder, decoder and decoder with
               past of Transformers' class, a tensor of keys and of values for each layer, gathered for every step
    openvino   OpenVINO with the graphs of `onnx`, INFERENCE_PRECISION_HINT=f32
    compile    Transformers' class, its tower and decoder by torch.compile (needs a C++ compiler)
    open_clip  CLIP-B/32 and SigLIP-B/16 beside open_clip: pictures and texts, batch 32

MM's fp32 should be no slower than 0.8 of the best of the others; where it is, the export is the way to choose.
"""

import importlib
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import clip_names
import harness
import optimum_layout
import torch
import transformers
from harness import Report, Row
from peers import blip, converted, drawn, named, pictures, search, sizes_of, starts, words

import mm
from mm.exporting.onnx import export_onnx

WORK = [(8, 5), (4, 1), (1, 1)]  # pictures, beams
SMALL_WORK = [(2, 3), (1, 1)]
OPEN_CLIP = Path(__file__).resolve().parents[1] / "build" / "open-clip"
LEAST = 0.8  # of the seconds of another runtime
Write = Callable[..., torch.Tensor]


def endless(model: Any) -> Any:
    """Every text has its 20 tokens, in every runtime."""
    model.generation_config.update(eos_token_id=None, pad_token_id=0)
    return model


class Captions:
    """The same work for every way."""

    def __init__(self, report: Report):
        self.report = report
        self.peer, model, self.size = blip(sizes_of(report))
        self.model = endless(model)

    def given(self, count: int, beams: int) -> dict[str, Any]:
        return {"pixel_values": pictures(count, self.size), "input_ids": starts(self.peer, count), **search(beams)}

    def beside(self, name: str, write: Write, wanted: float = LEAST) -> Iterator[Row]:
        """Rows of MM's fp32 and another runtime, after the share of equal tokens was said."""
        for count, beams in SMALL_WORK if self.report.asked.tiny else WORK:
            given, what = self.given(count, beams), f"{named(beams)}, batch {count}"
            same = equal_share(self.model.generate(**given), write(**given))
            self.report.say(f"  {name}, {what}: {same:.0%} of the tokens are equal")
            self.report.want(f"equal tokens of {name}, {what}", same, 0.98)
            ours, other = (partial(way, **given) for way in (self.model.generate, write))
            yield Row(f"BLIP-base, {what}", ours, other, wanted, None, name)


def equal_share(ours: torch.Tensor, other: torch.Tensor) -> float:
    width = min(ours.shape[1], other.shape[1])
    return (ours[:, :width] == other[:, :width]).double().mean().item()


# -- own --------------------------------------------------------------------------------------------------------------


def by_torch(model: Any) -> Write:
    def generate(**given: Any) -> torch.Tensor:
        mm.use_onednn(False)
        try:
            return model.generate(**given)
        finally:
            mm.use_onednn(None)

    return generate


def quantized(model: Any) -> Iterator[tuple[str, Any]]:
    """Names and models in int8; none without torchao."""
    try:
        torchao: Any = importlib.import_module("torchao.quantization")
    except ImportError:
        return
    yield "int8 weights", torchao.Int8WeightOnlyConfig()
    yield "int8 weights and activations", torchao.Int8DynamicActivationInt8WeightConfig()


def has_bf16() -> bool:
    """Whether this processor multiplies bf16."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def own(report: Report) -> Iterator[Row]:
    work = Captions(report)
    bf16, plain = endless(converted(work.peer)).bfloat16(), work.model.generate
    ids = torch.full((2, 4), 7)
    logits = work.model(pixel_values=pictures(2, work.size), input_ids=ids).logits

    def rows(name: str, write: Write, model: Any, wanted: float) -> Iterator[Row]:
        for count, beams in WORK:
            given = work.given(count, beams)
            same = equal_share(plain(**given), write(**given))
            report.say(f"  {name}, {named(beams)}, batch {count}: {same:.0%} of the tokens are equal")
            ways = partial(write, **given), partial(plain, **given)
            yield Row(f"{name}, {named(beams)}, batch {count}", *ways, wanted * (beams > 1), None, "own fp32")
        pixels = pictures(2, work.size).to(next(model.parameters()).dtype)
        apart = (model(pixel_values=pixels, input_ids=ids).logits.float() - logits).abs().max() / logits.std()
        report.say(f"  {name}: logits apart by {apart:.3f} of their deviation")
        report.row(way=name, apart=apart.item())

    yield from rows("torch's products", by_torch(work.model), work.model, 0.0)
    in_bf16 = lambda pixel_values, **given: bf16.generate(pixel_values=pixel_values.bfloat16(), **given)  # noqa: E731
    yield from rows("bf16", in_bf16, bf16, 1.5 if has_bf16() else 0.0)
    for name, config in quantized(work.model):
        model = endless(converted(work.peer))
        importlib.import_module("torchao.quantization").quantize_(model.model.language_model, config)
        yield from rows(name, model.generate, model, 1.4 if "activations" in name else 0.0)


# -- other runtimes ---------------------------------------------------------------------------------------------------


class OpenVino:
    """A graph as ONNX Runtime's session is called."""

    def __init__(self, session: Any, path: Path, threads: int):
        core: Any = importlib.import_module("openvino").Core()
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs
        self.request = core.compile_model(str(path), "CPU", settings).create_infer_request()

    def run(self, _: None, inputs: dict[str, Any]) -> list[Any]:
        return list(self.request.infer(inputs).values())


def exported(report: Report, name: str, by_openvino: bool) -> Iterator[Row]:
    work, threads = Captions(report), torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(work.model, None, folder)
        graphs: Any = mm.OnnxGenerator(folder, num_threads=threads)
        for part in ("context", "decoder") if by_openvino else ():
            setattr(graphs, part, OpenVino(getattr(graphs, part), Path(folder, f"{part}.onnx"), threads))

        def write(pixel_values, input_ids, num_beams, max_new_tokens, **_: Any) -> torch.Tensor:
            given = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
            return torch.from_numpy(graphs.generate(pixel_values.numpy(), input_ids.numpy(), **given))

        yield from work.beside(name, write)


def optimum(report: Report) -> Iterator[Row]:
    work = Captions(report)
    with tempfile.TemporaryDirectory() as folder:
        graphs = optimum_layout.exported(work.peer, Path(folder), torch.get_num_threads(), pictures(2, work.size))
        yield from work.beside("ONNX Runtime, optimum's layout", graphs.write)


def compiled(report: Report) -> Iterator[Row]:
    work = Captions(report)
    peer = drawn(type(work.peer)(work.peer.config))
    peer.config.text_config.sep_token_id = endless(peer.text_decoder).generation_config.eos_token_id  # no end: None
    for part in (peer.vision_model, peer.text_decoder):
        part.forward = torch.compile(part.forward, dynamic=True)

    def write(pixel_values, input_ids, **given: Any) -> torch.Tensor:
        return peer.generate(pixel_values=pixel_values, **given)

    yield from work.beside("Transformers, torch.compile", write)


# -- other libraries --------------------------------------------------------------------------------------------------


def open_clip(report: Report) -> Iterator[Row]:
    if not OPEN_CLIP.is_dir():
        report.say(f"open_clip: not measured, there is no {OPEN_CLIP.name} beside the other peers")
        return
    sys.path.insert(0, str(OPEN_CLIP))  # only now: Transformers reads pictures otherwise where torchvision is
    operations = torch.library.Library("torchvision", "FRAGMENT")  # a torchvision made for CUDA brings none here
    for name in ("nms", "qnms"):
        operations.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library: Any = importlib.import_module("open_clip")
    logging.disable(logging.WARNING)  # of random weights
    count = 2 if report.asked.tiny else 32
    ids = words(count, 77)
    ids[:, -1] = 49407
    clip = transformers.CLIPModel(transformers.CLIPConfig(text_config={"eos_token_id": 49407}))
    exact = {"hidden_act": "gelu"}  # open_clip's SigLIP; Transformers' has the approximation by tanh
    siglip = transformers.SiglipModel(transformers.SiglipConfig(text_config=exact, vision_config=exact))
    for name, peer, kind, texts in (
        ("CLIP-B/32", clip, "ViT-B-32-quickgelu", ids), ("SigLIP-B/16", siglip, "ViT-B-16-SigLIP", words(count, 64)),
    ):  # fmt: skip
        model, pixels = converted(drawn(peer)), pictures(count, 224)
        other = library.create_model(kind, pretrained=None).eval()
        other.load_state_dict(clip_names.translated(peer.state_dict(), other.state_dict()), strict=True)

        def ours(model: Any = model, texts: torch.Tensor = texts, pixels: torch.Tensor = pixels) -> torch.Tensor:
            return torch.cat([model.encode_image(pixel_values=pixels), model.encode_text(input_ids=texts)])

        def theirs(other: Any = other, texts: torch.Tensor = texts, pixels: torch.Tensor = pixels) -> torch.Tensor:
            return torch.cat([other.encode_image(pixels, normalize=True), other.encode_text(texts, normalize=True)])

        yield Row(f"{name}, {count} pictures and texts", ours, theirs, 1.0, 1e-5, "open_clip")


GROUPS: dict[str, harness.Group] = {
    "own": own,
    "onnx": partial(exported, name="ONNX Runtime", by_openvino=False),
    "optimum": optimum,
    "openvino": partial(exported, name="OpenVINO", by_openvino=True),
    "compile": compiled,
    "open_clip": open_clip,
}


def main(arguments: list[str] | None = None) -> int:
    with torch.no_grad():
        return harness.table(harness.options(__doc__, pairs=3), GROUPS, arguments)


if __name__ == "__main__":
    sys.exit(main())
