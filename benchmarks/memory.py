"""What work takes in memory: each figure is of a process of its own.

OMP_NUM_THREADS=1 python benchmarks/memory.py --log benchmarks/logs/memory.txt
python benchmarks/memory.py questions loss       # some groups

questions  N questions about one picture, a LLaVA with 576 picture tokens, beside Transformers with the same random
           weights in fp32; questions of 24 tokens, answers of 8. keys and values: by the tensors of the cache at
           the end; peak: the most that generate() holds above what was there. Answers are equal, and keys and
           values of MM grow by those of the questions and answers alone
loss       the loss over a vocabulary, without logits and with them, above inputs and gradients, forward and
           backward of 1024 positions of width 768
reading    one picture of 64 megapixels to pixel_values of 224 x 224: the most above what imports take; and how
           what is held grows per 1,000 pictures, one in ten of them broken, after a first 1,000
plan       the estimate of `mm train --dry-run` and what a process holds during the third step of AdamW
convert    a VisionEncoderDecoder with GPT-2's decoder in shards, most of whose tensors are turned or split, over
           its size: "held" the process wrote itself, "with files" counts pages of mapped files
"""

import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
import parts
import torch
import transformers
from harness import Report, Row
from PIL import Image

import mm

Lines = Iterator[Row]  # none: what is found is said, and wanted


def one(name: str, *arguments: Any) -> list[float]:
    """The numbers that a function of MEASURES gives, in a process of its own."""
    return harness.alone(__file__, "--one", name, *map(str, arguments))


# -- questions --------------------------------------------------------------------------------------------------------

COUNTS, TOKENS, ASKED, WRITTEN, IMAGE = (1, 2, 4, 8, 16, 32), 576, 24, 8, 999
LIBRARIES = ("MM", "Transformers")
TEXT = {
    "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
    "vocab_size": 1000, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 1024,
}  # fmt: skip
VISION = {
    "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 384,
    "patch_size": 16,
}  # fmt: skip


def cached(held: Any, found: dict[int, int]) -> dict[int, int]:
    """{place: bytes} of every tensor of keys or values that a cache holds, however deep."""
    if torch.is_tensor(held):
        if held.is_floating_point() and held.ndim == 4:
            found[held.untyped_storage().data_ptr()] = held.untyped_storage().nbytes()
    elif isinstance(held, (dict, list, tuple)):
        for value in held.values() if isinstance(held, dict) else held:
            cached(value, found)
    elif type(held).__module__.startswith(("mm.", "transformers.cache_utils")):
        cached(vars(held), found)
    return found


@torch.no_grad()
def answered(folder: str, library: str, count: str) -> list[float]:
    """Bytes of the cache and of the peak, and the ids of all answers."""
    theirs, rows = transformers.LlavaForConditionalGeneration, int(count)
    model: Any = (mm.convert(folder).model if library == "MM" else theirs.from_pretrained(folder)).eval()
    generator = torch.Generator().manual_seed(1)
    asked = torch.randint(3, IMAGE, (rows, ASKED), generator=generator)
    ids = torch.cat([torch.tensor([[1] + [IMAGE] * TOKENS]).expand(rows, -1), asked], dim=1)
    pixels = torch.randn(1, 3, VISION["image_size"], VISION["image_size"], generator=generator)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if library == "MM":
        given |= {"pixel_values": pixels, "context_index": torch.zeros(rows, dtype=torch.long)}
    else:
        given["pixel_values"] = pixels.expand(rows, -1, -1, -1)
    settings = {"max_new_tokens": WRITTEN, "do_sample": False, "eos_token_id": None, "suppress_tokens": [IMAGE]}
    model.generate(**{name: value[:1] for name, value in given.items()}, **settings)  # what a first call makes
    harness.settled()
    with harness.Peak() as peak:
        out = model.generate(**given, **settings, return_dict_in_generate=True)
    kept = sum(cached(out.past_key_values, {}).values())
    return [kept, peak.held, *out.sequences[:, -WRITTEN:].flatten().tolist()]


def questions(report: Report) -> Lines:
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION), text_config=transformers.LlamaConfig(**TEXT),
        image_token_index=IMAGE, vision_feature_select_strategy="full",
    )  # fmt: skip
    sizes = []
    report.say("questions   keys and values: MM, Transformers   peak of generate(): MM, Transformers   (MiB)")
    with tempfile.TemporaryDirectory() as folder:
        transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
        for count in COUNTS[:2] if report.asked.tiny else COUNTS:
            found = {library: one("answered", folder, library, count) for library in LIBRARIES}
            report.equal(f"answers to {count} questions", *(torch.tensor(own[2:]) for own in found.values()))
            sizes.append({library: [size / 2**20 for size in own[:2]] for library, own in found.items()})
            columns = [sizes[-1][library][what] for what in (0, 1) for library in LIBRARIES]
            report.row(questions=count, **sizes[-1])
            report.say(f"{count:<10}" + "".join(f"{size:12.1f}" for size in columns))
    own = 2 * TEXT["num_hidden_layers"] * TEXT["hidden_size"] * 4 * (ASKED + WRITTEN) / 2**20
    grown = (sizes[-1]["MM"][0] - sizes[0]["MM"][0]) / (COUNTS[len(sizes) - 1] - COUNTS[0])
    report.say(f"a question more: {grown:.2f} MiB of keys and values; its {ASKED + WRITTEN} tokens have {own:.2f}")
    report.want("keys and values of a question against what it adds", own / grown, 0.99)
    yield from ()


# -- the loss over a vocabulary ---------------------------------------------------------------------------------------


def of_loss(way: str, vocabulary: str) -> list[float]:
    """MiB above inputs and gradients, and above the inputs."""
    parts.loss_step(way, parts.loss_inputs(1000, 8))  # what libraries load once
    given = parts.loss_inputs(int(vocabulary))
    before = harness.settled()
    parts.loss_step(way, given)
    peak = (harness.status("VmHWM") - before) / 2**20
    return [peak - sum(leaf.numel() * leaf.itemsize for leaf in given[:3]) / 2**20, peak]


def loss(report: Report) -> Lines:
    report.say("| vocabulary | loss | memory MiB | with gradients MiB |\n|---|---|---|---|")
    for vocabulary in (3_000,) if report.asked.tiny else parts.VOCABULARIES:
        found = {way: one("of_loss", way, vocabulary) for way in ("full", "chunked")}
        for way, (memory, whole) in found.items():
            report.say(f"| {vocabulary} | {way} | {memory:.0f} | {whole:.0f} |")
            report.row(vocabulary=vocabulary, loss=way, memory=memory, with_gradients=whole)
        shares = [ours / full for ours, full in zip(found["chunked"], found["full"], strict=True)]
        report.say(f"| {vocabulary} | chunked / full | {shares[0]:.3f} | {shares[1]:.3f} |")
    yield from ()


# -- reading ----------------------------------------------------------------------------------------------------------

SIDE, PEAK_LIMIT, SLOPE_LIMIT = 8000, 400, 1.0  # 64 megapixels; MB


def file_of(fmt: str, mode: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (SIDE, SIDE), (200, 30, 90, 128)[: len(mode)]).save(file, fmt, **options)
    return file.getvalue()


def array_of(channels: int) -> np.ndarray:
    return np.full((SIDE, SIDE, channels), 100, dtype=np.uint8)


SOURCES: dict[str, Callable[[], Any]] = {
    "PNG, RGB": lambda: file_of("PNG", "RGB", compress_level=1),
    "PNG, RGBA": lambda: file_of("PNG", "RGBA", compress_level=1),
    "JPEG, RGB": lambda: file_of("JPEG", "RGB"),
    "TIFF, RGBA": lambda: file_of("TIFF", "RGBA", compression="tiff_lzw"),
    "array, RGB": lambda: array_of(3),
    "array, RGBA": lambda: array_of(4),
    "tensor, RGB, channels first": lambda: torch.from_numpy(array_of(3)).permute(2, 0, 1),
    "PIL image, RGB": lambda: Image.new("RGB", (SIDE, SIDE), "red"),
    "PIL image, RGBA": lambda: Image.new("RGBA", (SIDE, SIDE), (200, 30, 90, 128)),
}


def of_picture(name: str, cut: str) -> list[float]:
    """MB at most above what is held with the source made."""
    processor = mm.MMImageProcessorPil(do_crop_content=cut == "1")
    processor(Image.new("RGBA", (64, 64)))
    source = SOURCES[name]()
    before = harness.settled()
    processor(source)
    return [(harness.status("VmHWM") - before) / 1e6]


def of_pictures() -> list[float]:
    """MB per 1,000 pictures of mixed kinds and sizes, one in ten of them broken."""
    processor, rng, files = mm.MMImageProcessorPil(), np.random.default_rng(0), []
    for fmt in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (rng.integers(50, 300), 200, 3), dtype=np.uint8)).save(file, fmt)
        files.append(file.getvalue())
    before = 0
    for number in range(4000):
        if number == 1000:
            before = harness.settled()
        raw = files[number % len(files)]
        try:
            processor.preprocess([raw[: len(raw) // 2] if number % 10 == 0 else raw], return_tensors="pt")
        except mm.MediaDecodeError:
            pass
    return [(harness.settled() - before) / 3e6]


def reading(report: Report) -> Lines:
    report.say(f"{'64 megapixels as':<30}{'peak growth':>14}{'cut to content':>18}")
    worst = 0.0
    for name in list(SOURCES)[: 1 if report.asked.tiny else None]:
        plain, cut = (one("of_picture", name, way)[0] for way in (0, 1))
        worst = max(worst, plain, cut)
        report.say(f"{name:<30}{plain:>11.0f} MB{cut:>15.0f} MB")
        report.row(source=name, plain=plain, cut=cut)
    slope = one("of_pictures")[0]
    report.say(
        f"per 1,000 pictures after the first 1,000: {slope:+.2f} MB; limits: {PEAK_LIMIT} MB and {SLOPE_LIMIT} MB"
    )
    report.want("limit of a picture's memory against it", PEAK_LIMIT / worst, 1.0)
    report.want("limit of the growth against it", SLOPE_LIMIT / max(slope, 1e-3), 1.0)
    yield from ()


# -- the plan of a training -------------------------------------------------------------------------------------------

NAMES = ("rocket", "guitar", "penguin", "camera", "elephant", "bicycle", "octopus", "hamburger")
CASES = {
    "mm-tiny captioner, batch 64": ("tiny", 64, False),
    "mm-tiny captioner, tower frozen, batch 64": ("tiny-frozen", 64, False),
    "mm-small captioner, batch 8": ("small", 8, False),
    "mm-small captioner, batch 8, gradient checkpointing": ("small", 8, True),
    "mm-small retrieval, batch 16": ("retrieval", 16, False),
}


def built(kind: str) -> tuple[Any, Any]:
    processor = mm.MMProcessor.from_pretrained(parts.TINY)
    if kind.startswith("tiny"):
        model = mm.MMForConditionalGeneration.from_pretrained(parts.TINY)
        return (model.freeze("vision") if kind == "tiny-frozen" else model), processor
    processor.image_processor.size = {"height": 224, "width": 224}
    changes = {"text_config": {"is_causal": False}} if kind == "retrieval" else {}
    config = mm.MMConfig.preset("mm-small", tokenizer=processor.tokenizer, **changes)
    cls = mm.MMForImageTextRetrieval if kind == "retrieval" else mm.MMForConditionalGeneration
    return cls(config), processor


def of_step(case: str) -> list[float]:
    """Estimated and real bytes."""
    from mm.training.plan import describe_plan

    kind, size, checkpoints = CASES[case]
    column = "text" if kind == "retrieval" else "suffix"
    data = [
        {"image": f"examples/pictures/{NAMES[number % 8]}.png", column: f"a picture of number {number}"}
        for number in range(size)
    ]
    with tempfile.TemporaryDirectory() as folder:
        settings = {"use_cpu": True, "per_device_train_batch_size": size, "gradient_checkpointing": checkpoints}
        training = transformers.Seq2SeqTrainingArguments(folder, **settings)
    processor = built(kind)[1]
    collator = mm.MMDataCollator(processor, return_loss=kind == "retrieval", share_media=False)
    batch, before = collator(data), harness.settled()
    model = built(kind)[0].train()
    if checkpoints:
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad])
    for _ in range(3):
        harness.settled()
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    real = harness.status("VmHWM") - before
    del optimizer
    estimated = describe_plan(model, processor, training, data, collator=collator).memory
    return [estimated.total if estimated else 0, real]


def plan(report: Report) -> Lines:
    report.say(f"{'':52} {'estimated':>12} {'real':>12}   error")
    for case in list(CASES)[:1] if report.asked.tiny else CASES:
        estimated, real = one("of_step", case)
        report.say(f"{case:52} {estimated / 2**20:8.0f} MiB {real / 2**20:8.0f} MiB {estimated / real - 1:+7.0%}")
        report.row(case=case, estimated=estimated, real=real)
    yield from ()


# -- converting -------------------------------------------------------------------------------------------------------

LAYERS, WIDTH, SHARD, LARGEST_RATIO = 20, 1024, "200MB", 1.2
RUNS = {"mm.convert": "memory", "mm convert": "files", "mm convert --to": "back"}


def write_checkpoint(directory: Path, layers: int, width: int, shard: str) -> int:
    """Writes the checkpoint; returns its bytes."""
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = transformers.GPT2Config(vocab_size=8192, n_embd=width, n_layer=layers, n_head=8, is_decoder=True, **ends)
    text.add_cross_attention = True
    sizes = {"num_hidden_layers": 2, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 512}
    vision = transformers.ViTConfig(**sizes)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    config.decoder_start_token_id = 0
    torch.manual_seed(0)
    transformers.VisionEncoderDecoderModel(config).save_pretrained(directory, max_shard_size=shard)
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


def of_conversion(kind: str, source: str, out: str) -> list[float]:
    """Both peaks in bytes."""
    from mm.conversion_scripts.engine import run

    mm.MMForConditionalGeneration  # noqa: B018  imported when it is asked for
    with harness.Peak() as peak:
        if kind == "memory":
            kept = mm.convert(source)
            assert kept.model is not None
        else:
            run(source, out, "vision-encoder-decoder" if kind == "back" else None)
    return [peak.held, peak.with_files]


def conversion_table(layers: int = LAYERS, width: int = WIDTH, shard: str = SHARD) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        source, out, back = (Path(folder) / name for name in ("source", "out", "back"))
        size = write_checkpoint(source, layers, width, shard)
        yield f"| {size / 2**20:.0f} MiB in {len(list(source.glob('*.safetensors')))} shards | held | with files |"
        yield "|---|---|---|"
        for name, kind in RUNS.items():
            found = one("of_conversion", kind, *((out, back) if kind == "back" else (source, out)))
            yield f"| `{name}` | " + " | ".join(f"{peak / size:.2f}" for peak in found) + " |"


def convert(report: Report) -> Lines:
    for line in conversion_table(*((2, 64, "1MB") if report.asked.tiny else ())):
        report.say(line)
    yield from ()


# -- all --------------------------------------------------------------------------------------------------------------

MEASURES: dict[str, Callable[..., list[float]]] = {
    way.__name__: way for way in (answered, of_loss, of_picture, of_pictures, of_step, of_conversion)
}
GROUPS: dict[str, harness.Group] = {
    "questions": questions, "loss": loss, "reading": reading, "plan": plan, "convert": convert,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    return harness.table(harness.options(__doc__), GROUPS, arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(*MEASURES[sys.argv[2]](*sys.argv[3:]))
    else:
        sys.exit(main())
