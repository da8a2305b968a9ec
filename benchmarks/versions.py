"""What an older version of MM took for the same: training steps, views of photos, tokens of mm-tiny.

    python benchmarks/versions.py --old OLD_PYTHON --threads 1 --log benchmarks/logs/versions.txt
    python benchmarks/versions.py --old OLD_PYTHON labels token     # some rows
    python benchmarks/versions.py --old OLD_PYTHON --checkpoint OLD/checkpoints/mm-tiny    # one that both read

OLD_PYTHON is the interpreter of an environment with the `mm` of another version: a worktree of commit 4496661, say.
Both sides are processes that stay and take turns; what their first run gives is compared. --old may be this Python.

    labels    a plain loop over texts of which a tenth has labels, 30,522 words
    whole     the same where every position has a label
    bf16      mm-tiny as a whole, bf16 of the new version against fp32 of the old one
    captions  five captions of each picture against five copies of it, both of the new version
    photos    MMDataCollator on a photo of 12 MP, with the augmentation of docs/processing.md
    views     the same for a processor that does not cut to the content, 224 px
    files     the image processor on 48 JPEG and PNG files of four sizes, to 384 x 384; equal pixels
    first     until the first token of generate(), from pixels, mm-tiny, batch 1
    token     a further token: a long generate() less a short one, over the tokens between them
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import harness
import photos
import torch
from harness import Report, Row

CHECKPOINT = Path(__file__).resolve().parents[1] / "checkpoints/mm-tiny"
SHORT, LONG = 4, 64  # new tokens
Numbers = Callable[[], list[float]]


def trained(model: Any, batch: dict[str, Any]) -> Numbers:
    """A step of AdamW, fused as Trainer has it, and its loss."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def step() -> list[float]:
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        return [loss.item()]

    return step


def labelled(share: float) -> Numbers:
    """mm-tiny with a larger vocabulary, without dropout; the last `share` of each text has labels."""
    import mm

    config = mm.MMConfig.from_pretrained(CHECKPOINT)
    config.text_config.vocab_size, config.text_config.hidden_dropout = 30_522, 0.0
    model = mm.MMForConditionalGeneration(config).train()
    ids = torch.randint(3, 30_522, (16, 40), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, : round(40 * (1 - share))] = -100
    pixels = torch.randn(16, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    return trained(model, {"input_ids": ids, "pixel_values": pixels, "labels": labels})


def tiny(dtype: torch.dtype, copies: int = 1, texts: int = 1, batch: int = 16) -> Numbers:
    """mm-tiny on `batch` pictures, `copies` of each, with `texts` captions for each copy."""
    import mm

    model = mm.MMForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=dtype).train()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    pixels = torch.randn(batch, 3, 128, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    ids = torch.randint(3, 1000, (batch * copies * texts, 16), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, "labels": ids, "pixel_values": pixels.repeat_interleave(copies, 0).to(dtype)}
    if texts > 1:
        inputs["context_index"] = torch.arange(batch).repeat_interleave(texts)
    return trained(model, inputs)


def augmented(size: int | None) -> Numbers:
    """A batch of one photo."""
    from transformers import AutoProcessor

    import mm

    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    reader = processor.image_processor
    reader.augmentation = {"crop": [0.6, 1.0], "flip": 0.5, "rotation": 10, "operations": 2}
    if size is not None:
        reader.size, reader.do_crop_content = {"height": size, "width": size}, False
    collator, raw = mm.MMDataCollator(processor, augment="saved"), photos.photo(0, (4000, 3000))
    numbers = iter(range(10**6))

    def view() -> list[float]:
        batch = collator([{"id": next(numbers), "image": raw, "suffix": "a photo"}])
        return [batch["pixel_values"].shape[-1]]

    return view


def files() -> Numbers:
    import mm

    folder = tempfile.TemporaryDirectory()  # goes with the process
    paths, reader = photos.write_photos(Path(folder.name), 48), mm.MMImageProcessorPil(**photos.BLIP_PIXELS)

    def read() -> list[float]:
        pixels = reader(paths, return_tensors="pt")["pixel_values"]
        return [pixels.double().mean().item(), pixels.double().std().item(), float(bool(folder))]

    return read


def writer() -> Callable[..., list[float]]:
    """generate() of mm-tiny by the number of new tokens."""
    from transformers import AutoModelForImageTextToText

    import mm  # noqa: F401  registers the classes

    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT).eval()
    size = model.config.vision_config.image_size
    pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    never = 0  # padding: an end of text that is never written, so that no text ends early

    def write(length: int, num_beams: int = 1) -> list[float]:
        written = model.generate(pixel_values=pixels, eos_token_id=never, max_new_tokens=length, num_beams=num_beams)
        return written[0].tolist()

    return write


def per_token(write: Callable[..., list[float]]) -> harness.Cost:
    short, long = (harness.clocked(partial(write, length)) for length in (SHORT, LONG))
    return harness.Cost((long.wall - short.wall) / (LONG - SHORT), (long.cpu - short.cpu) / (LONG - SHORT))


# name: what to run by side, the ratio that is wanted, how far the first results may be apart, runs in a turn
WAYS: dict[str, tuple[Callable[[str], Any], float, float, int]] = {
    "labels": (lambda side: labelled(0.1), 1.8, 1e-6, 4),
    "whole": (lambda side: labelled(1.0), 0.95, 1e-6, 4),
    "bf16": (lambda side: tiny(torch.bfloat16 if side == "ours" else torch.float32), 1.3, 0.02, 4),
    "captions": (lambda side: tiny(torch.float32, **{"texts" if side == "ours" else "copies": 5}), 2.5, 1e-5, 4),
    "photos": (lambda side: augmented(None), 5.0, 0.0, 4),
    "views": (lambda side: augmented(224), 5.0, 0.0, 4),
    "files": (lambda side: files(), 1.0, 1e-6, 1),
    "first": (lambda side: writer(), 1.35, 0.0, 4),
    "token": (lambda side: writer(), 1.35, 0.0, 1),
}


def serve(name: str, side: str, threads: int) -> None:
    """The process of one side."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    make, _, _, runs = WAYS[name]
    way = make(side)
    if name in ("first", "token"):
        start = way(LONG) + way(LONG, num_beams=3)
        run = partial(way, 1)
    else:
        start, run = way(), way

    def answer(_: str) -> dict[str, float]:
        if name == "token":
            return vars(per_token(way))
        return harness.cost_of(lambda: [run() for _ in range(runs)])

    harness.serve(start, answer)


def row(name: str, report: Report) -> Iterator[Row]:
    if not report.asked.old:
        report.say(f"{name}: not measured without --old")
        return
    _, wanted, atol, _ = WAYS[name]
    old = sys.executable if name == "captions" else report.asked.old
    threads = str(report.asked.threads or torch.get_num_threads())
    command = ["-W", "ignore", __file__, "serve", name]
    ours, other = (
        harness.Server([python, *command, side, threads, report.asked.checkpoint])
        for python, side in ((sys.executable, "ours"), (old, "old"))
    )
    report.equal(name, *(torch.tensor(server.start) for server in (ours, other)), atol)
    against = "five copies" if name == "captions" else "the older version"
    yield Row(name, ours.cost, other.cost, wanted, None, against, of="cpu", cost=harness.told)
    for server in (ours, other):
        server.end()


def main(arguments: list[str] | None = None) -> int:
    parser = harness.options(__doc__)
    parser.add_argument("--checkpoint", default=str(CHECKPOINT), help="an mm-tiny that both versions read")
    parser.add_argument("--old", help="an interpreter whose environment has an older mm")
    return harness.table(parser, {name: partial(row, name) for name in WAYS}, arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        CHECKPOINT = Path(sys.argv[5])
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        sys.exit(main())
