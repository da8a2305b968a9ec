"""What a training step costs: beside the version before, beside fp32, and for five captions of a picture.

python benchmarks/training_step.py OLD_PYTHON NEW_PYTHON [--pairs 5] [--threads 2] [--rows labels ...] [--log FILE]

OLD_PYTHON has the `mm` of another version (an environment of a worktree of commit 4496661). Each row trains the same
model on the same batch in both, in turn, each in a process that stays; the losses of the first step are compared.

    labels    a plain loop over texts of which a tenth has labels, 30,522 words
    whole     the same where every position has a label
    bf16      mm-tiny as a whole, bf16 of the new version against fp32 of the old one
    captions  five captions of each picture against five copies of it, both of the new version
    photos    MMDataCollator on a photo of 12 MP, with the augmentation of docs/processing.md
    views     the same for a processor that does not cut to the content, 224 px
"""

import sys
from pathlib import Path
from typing import Any

import harness
import torch
from training_throughput import photo

CHECKPOINT = Path(__file__).resolve().parents[1] / "checkpoints/mm-tiny"
WANTED = {"labels": 1.8, "whole": 0.95, "bf16": 1.3, "captions": 2.5, "photos": 5.0, "views": 5.0}
CLOSE = {"labels": 1e-6, "whole": 1e-6, "bf16": 0.02, "captions": 1e-5}
STEPS = 4


def trained(model: Any, batch: dict[str, Any]) -> Any:
    """A step of AdamW, fused as Trainer has it, and its loss."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)

    def step() -> float:
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def labelled(share: float) -> Any:
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


def tiny(dtype: torch.dtype, copies: int = 1, texts: int = 1, batch: int = 16) -> Any:
    """mm-tiny on `batch` pictures, `copies` of each, with `texts` captions for each copy."""
    import mm

    model = mm.MMForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=dtype).train()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    rows = batch * copies * texts
    pixels = torch.randn(batch, 3, 128, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    ids = torch.randint(3, 1000, (rows, 16), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, "labels": ids, "pixel_values": pixels.repeat_interleave(copies, 0).to(dtype)}
    if texts > 1:
        inputs["context_index"] = torch.arange(batch).repeat_interleave(texts)
    return trained(model, inputs)


def augmented(size: int | None) -> Any:
    """A batch of one photo."""
    from transformers import AutoProcessor

    import mm

    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    reader = processor.image_processor
    reader.augmentation = {"crop": [0.6, 1.0], "flip": 0.5, "rotation": 10, "operations": 2}
    if size is not None:
        reader.size, reader.do_crop_content = {"height": size, "width": size}, False
    collator, raw = mm.MMDataCollator(processor, augment="saved"), photo(0, (4000, 3000))
    numbers = iter(range(10**6))

    def view() -> float:
        batch = collator([{"id": next(numbers), "image": raw, "suffix": "a photo"}])
        return batch["pixel_values"].shape[-1]

    return view


WAYS = {
    "labels": lambda side: labelled(0.1),
    "whole": lambda side: labelled(1.0),
    "bf16": lambda side: tiny(torch.bfloat16 if side == "new" else torch.float32),
    "captions": lambda side: tiny(torch.float32, texts=5) if side == "new" else tiny(torch.float32, copies=5),
    "photos": lambda side: augmented(None),
    "views": lambda side: augmented(224),
}


def serve(row: str, side: str, threads: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    way = WAYS[row](side)
    first = way()
    harness.serve({"first": first}, lambda _: harness.cost_of(lambda: [way() for _ in range(STEPS)]))


def main(arguments: list[str] | None = None) -> int:
    parser = harness.options(__doc__)
    parser.add_argument("pythons", nargs=2)
    parser.add_argument("--rows", nargs="+", choices=list(WAYS), default=list(WAYS))
    asked = parser.parse_args(arguments)
    report = harness.Report(asked)
    report.titles()
    for row in asked.rows:
        old, new = (asked.pythons[1], asked.pythons[1]) if row == "captions" else asked.pythons
        command = ["-W", "ignore", __file__, "serve", row]
        threads = str(asked.threads or torch.get_num_threads())
        servers = [harness.Server([python, *command, side, threads]) for python, side in ((old, "old"), (new, "new"))]
        firsts = [server.start["first"] for server in servers]
        report.equal(row, *(torch.tensor(first) for first in firsts[::-1]), atol=CLOSE.get(row, 0.0))
        ways = {"old": servers[0].cost, "new": servers[1].cost}
        against = "five copies" if row == "captions" else "the older version"
        report.race(row, ways["new"], ways["old"], WANTED[row], against, of="cpu", cost=lambda way: way())
        report.row(row=row, firsts=firsts)
        for server in servers:
            server.end()
    return report.end()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        sys.exit(main())
