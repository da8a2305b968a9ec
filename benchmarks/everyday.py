"""What one waits for every day: imports, loading, converting, reading photos.

    OMP_NUM_THREADS=1 python benchmarks/everyday.py --log benchmarks/logs/everyday.txt
    python benchmarks/everyday.py convert --families    # donut, chinese-clip, altclip, align, clap: published sizes

Each run of the first groups is a process of its own. A checkpoint is a BLIP captioner in fp32 with random weights, of
base size (0.9 GB) and for `convert` also of large size; equal logits and pixels are looked at first. Photos are JPEG
and PNG in four sizes, 1,000 of them, to 384 x 384; two workers are those of a DataLoader.
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import harness
import photos
import torch
import transformers
from harness import Report, Row
from peers import MEDIUM, blip, drawn, pictures, sizes_of, words
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import mm

CLASSES = "from transformers import AutoModel, GenerationMixin, PreTrainedModel, ProcessorMixin"
MOST_IMPORT, LEAST_WORKERS, BATCH, FIRST = 0.15, 1.8, 16, 16  # seconds beyond Transformers' own; 2 workers / 1
TIMED = """
import time
{before}
wall, cpu = time.perf_counter(), time.process_time()
{work}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""
IMPORTED = "import torch, mm, transformers\ntransformers.utils.logging.disable_progress_bar()\n"
# Name -> the class, and its config in the sizes of the first published model.
FAMILIES: dict[str, tuple[str, Any]] = {
    "donut": ("VisionEncoderDecoderModel", lambda t: donut(t)),
    "chinese-clip": ("ChineseCLIPModel", lambda t: t.ChineseCLIPConfig(
        vision_config={"patch_size": 16}, text_config={"vocab_size": 21128})),
    "altclip": ("AltCLIPModel", lambda t: t.AltCLIPConfig(vision_config={
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
        "patch_size": 14})),
    "align": ("AlignModel", lambda t: t.AlignConfig()),
    "clap": ("ClapModel", lambda t: t.ClapConfig()),
}  # fmt: skip


def donut(t: Any) -> Any:
    swin = {"image_size": [2560, 1920], "depths": [2, 2, 14, 2], "window_size": 10, "embed_dim": 128}
    encoder = t.DonutSwinConfig(**swin, num_heads=[4, 8, 16, 32])
    text = {"decoder_layers": 4, "encoder_layers": 4, "vocab_size": 57580, "max_position_embeddings": 768}
    decoder = t.MBartConfig(d_model=1024, **text, scale_embedding=True, is_decoder=True, add_cross_attention=True)
    config = t.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 0, 1, 2
    return config


def process(work: str, before: str = IMPORTED) -> harness.Cost:
    """Of `work` in a process that has imported mm and Transformers."""
    return harness.Cost(*harness.alone("-c", TIMED.format(work=work, before=before)))


def imports(report: Report) -> Iterator[Row]:
    ways = {"both": f"{CLASSES}\nimport mm", "alone": CLASSES}
    costs = harness.in_turn(ways, report.asked.pairs, cost=partial(process, before=""))
    wall = {name: harness.median(own, "wall") for name, own in costs.items()}
    beyond = wall["both"] - wall["alone"]
    report.say(f"import of Transformers' classes {wall['alone']:.2f} s, of mm with them {wall['both']:.2f} s")
    report.row(what="import", **wall)
    if beyond > MOST_IMPORT and not report.asked.tiny:
        report.faults.append(f"import mm takes {beyond:.2f} s beyond Transformers, wanted at most {MOST_IMPORT}")
    yield from ()


def load(report: Report) -> Iterator[Row]:
    peer, model, size = blip(sizes_of(report))
    given = {"pixel_values": pictures(1, size), "input_ids": words(1, 4)}
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        logits, ways = [], []
        for side, cls in (
            (model, "mm.MMForConditionalGeneration"),
            (peer, "transformers.BlipForConditionalGeneration"),
        ):
            folder = f"{name}/{cls}"
            side.save_pretrained(folder)
            logits.append(type(side).from_pretrained(folder).eval()(**given).logits)
            ways.append(partial(process, f"model.from_pretrained({folder!r})", f"{IMPORTED}model = {cls}"))
        report.equal("logits", *logits, atol=1e-4)
        yield Row("from_pretrained of BLIP-base", *ways, 1.0, None, cost=harness.told)


def checkpoints(report: Report) -> Iterator[tuple[str, Any]]:
    """Name and model."""
    if report.asked.families:
        for name, (cls, config) in FAMILIES.items():
            yield name, getattr(transformers, cls)(config=config(transformers))
        return
    large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    towers = {"BLIP-tiny": MEDIUM} if report.asked.tiny else {"BLIP-base": {}, "BLIP-large": large}
    for name, vision in towers.items():
        sizes = {"vision_config": {"image_size": 384, **vision}, "text_config": MEDIUM if report.asked.tiny else {}}
        yield name, drawn(transformers.BlipForConditionalGeneration(transformers.BlipConfig(**sizes)))


def convert(report: Report) -> Iterator[Row]:
    for name, peer in checkpoints(report):
        with tempfile.TemporaryDirectory() as folder:
            source, out = f"{folder}/source", f"{folder}/out"
            peer.save_pretrained(source)
            cls = f"{IMPORTED}model = transformers.{type(peer).__name__}"
            works = {
                f"run({source!r}, {out!r})": f"{IMPORTED}from mm.conversion_scripts.engine import run",
                f"model.from_pretrained({source!r}).save_pretrained({out!r})": cls,
            }

            def written(work: str, before: str, out: str = out) -> harness.Cost:
                shutil.rmtree(out, ignore_errors=True)
                return process(work, before)

            ours, theirs = (partial(written, *item) for item in works.items())
            work = f"mm convert of {name}; loading and saving"
            yield Row(work, ours, theirs, 1 / 1.5, None, of="cpu", cost=harness.told)


# -- photos -----------------------------------------------------------------------------------------------------------


def read(side: Any, names: list[str], batch: int = BATCH) -> None:
    for start in range(0, len(names), batch):
        side(names[start : start + batch], return_tensors="pt")


def bare(paths: list[str]) -> None:
    for path in paths:
        with Image.open(path) as image:
            image.convert("RGB").resize((384, 384), Image.Resampling.BICUBIC)


def in_processes(paths: list[str], count: int) -> None:
    """Only Pillow, in processes that share the files and give nothing back."""
    parts = [paths[start::count] for start in range(count)]
    started = [multiprocessing.get_context("fork").Process(target=bare, args=(part,)) for part in parts]
    for process in started:
        process.start()
    for process in started:
        process.join()


def read_pixels(processor: Any, paths: list[str]) -> torch.Tensor:
    return processor(paths, return_tensors="pt")["pixel_values"]


def epoch(paths: list[str], workers: int, processor: Any) -> harness.Cost:
    """An epoch that is not the first; CPU seconds of all processes, of one of two."""
    before, collate = sum(os.times()[:4]), partial(read_pixels, processor)
    data = cast(Dataset, paths)
    batches = DataLoader(data, BATCH, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0)
    list(batches)
    wall = harness.clocked(lambda: list(batches)).wall
    batches._iterator = None  # ends the workers, whose CPU time is known then
    return harness.Cost(wall, (sum(os.times()[:4]) - before) / 2)


def reading(report: Report) -> Iterator[Row]:
    count = 2 * FIRST if report.asked.tiny else 1000
    ours, theirs = mm.MMImageProcessorPil(**photos.BLIP_PIXELS), transformers.BlipImageProcessorPil()
    raw = mm.MMImageProcessorPil(**photos.BLIP_PIXELS, do_rescale=False, do_normalize=False)
    with tempfile.TemporaryDirectory() as folder:
        names = [str(path) for path in photos.write_photos(Path(folder), count)]
        report.equal("pixels", *(read_pixels(side, names[:FIRST]).float() for side in (ours, theirs)), atol=1e-5)
        work = f"processor, {count:,} photos"
        yield Row(work, partial(read, ours, names), partial(read, theirs, names), 2.0, None)
        yield Row(f"{work}; Pillow alone", partial(read, ours, names), partial(bare, names), 0.0, None, "Pillow")
        two, one = (partial(epoch, names, workers, raw) for workers in (2, 1))
        settings = {"atol": None, "against": "1 worker", "warm_up": 0}
        yield Row(f"{work}, 2 workers", two, one, LEAST_WORKERS, cost=harness.told, **settings)
        both, single = (partial(in_processes, names, workers) for workers in (2, 1))
        yield Row("Pillow alone, 2 processes: what 2 cores give", both, single, **settings | {"against": "1 process"})


GROUPS: dict[str, harness.Group] = {"load": load, "convert": convert, "reading": reading, "imports": imports}


def main(arguments: list[str] | None = None) -> int:
    parser = harness.options(__doc__)
    parser.add_argument("--families", action="store_true", help="`convert` with other families")
    return harness.table(parser, GROUPS, arguments)


if __name__ == "__main__":
    sys.exit(main())
