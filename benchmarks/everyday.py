"""What one waits for every day: imports, loading, converting, reading photos; and mm-tiny beside an older version.

    OMP_NUM_THREADS=1 python benchmarks/everyday.py --log benchmarks/logs/everyday.txt
    python benchmarks/everyday.py --old OLD_PYTHON     # with the rows of mm-tiny; its environment has the older mm

Each run of the first rows is a process of its own. A checkpoint is a BLIP-base captioner in fp32 (0.9 GB) with random
weights, in Transformers' layout and in MM's; equal logits and pixels are looked at first. Photos are those of
image_throughput.py, 1,000 of JPEG and PNG in four sizes, to 384 x 384; two workers are those of a DataLoader.
"""

import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

import decode_step
import harness
import image_throughput as photos
import torch
import transformers
from inference import MEDIUM, drawn, pictures

import mm

CLASSES = "from transformers import AutoModel, GenerationMixin, PreTrainedModel, ProcessorMixin"
MOST_IMPORT, LEAST_WORKERS = 0.15, 1.8  # seconds beyond Transformers' own; 2 workers / 1
FIRST = 16  # photos whose pixels are compared
TIMED = """
import time, torch, mm, transformers
transformers.utils.logging.disable_progress_bar()
{before}
wall, cpu = time.perf_counter(), time.process_time()
{work}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def process(work: str, before: str = "") -> harness.Cost:
    """Of `work` in a process that has imported mm and Transformers."""
    return harness.Cost(*harness.alone("-c", TIMED.format(work=work, before=before)))


def imports(report: harness.Report) -> None:
    def cost(last: str) -> harness.Cost:
        timed = "import time\nw, c = time.perf_counter(), time.process_time()\n"
        return harness.Cost(
            *harness.alone("-c", f"{timed}{CLASSES}\n{last}\nprint(time.perf_counter() - w, time.process_time() - c)")
        )

    costs = harness.in_turn({"both": "import mm", "alone": ""}, report.asked.pairs, cost=cost)  # type: ignore[arg-type]
    wall = {name: harness.median(own, "wall") for name, own in costs.items()}
    beyond = wall["both"] - wall["alone"]
    report.say(f"import of Transformers' classes {wall['alone']:.2f} s, of mm with them {wall['both']:.2f} s")
    report.row(what="import", alone=wall["alone"], both=wall["both"])
    if beyond > MOST_IMPORT and not report.asked.tiny:
        report.faults.append(f"import mm takes {beyond:.2f} s beyond Transformers, wanted at most {MOST_IMPORT}")


def checkpoints(report: harness.Report, folder: Path) -> None:
    sizes = MEDIUM if report.asked.tiny else {}
    config = transformers.BlipConfig(vision_config={"image_size": 384, **sizes}, text_config=sizes)
    source, ours, out = (folder / name for name in ("source", "ours", "out"))
    drawn(transformers.BlipForConditionalGeneration(config)).save_pretrained(source)
    mm.convert(source).model.save_pretrained(ours)
    given = {"pixel_values": pictures(1, 384), "input_ids": torch.full((1, 4), 7)}
    classes = {"mm.MMForConditionalGeneration": ours, "transformers.BlipForConditionalGeneration": source}
    with torch.no_grad():
        logits = [eval(name).from_pretrained(path).eval()(**given).logits for name, path in classes.items()]  # noqa: S307
    report.equal("logits", *logits, atol=1e-4)
    mine, theirs = (
        partial(process, f"model.from_pretrained({str(path)!r})", f"model = {name}") for name, path in classes.items()
    )
    report.race("from_pretrained of BLIP-base", mine, theirs, 1.0, cost=lambda way: way())

    def converted() -> harness.Cost:
        shutil.rmtree(out, ignore_errors=True)
        return process(f"run({str(source)!r}, {str(out)!r})", "from mm.conversion_scripts.engine import run")

    def saved() -> harness.Cost:
        shutil.rmtree(out, ignore_errors=True)
        work = f"model.from_pretrained({str(source)!r}).save_pretrained({str(out)!r})"
        return process(work, "model = transformers.BlipForConditionalGeneration")

    report.race("mm convert; loading and saving", converted, saved, 1 / 1.5, of="cpu", cost=lambda way: way())


def reading(report: harness.Report, folder: Path, count: int) -> None:
    paths = photos.write_pictures(folder, count)
    ours, theirs = photos.processors()
    names = [str(path) for path in paths]
    found = [side(names[:FIRST], return_tensors="pt")["pixel_values"].float() for side in (ours, theirs)]
    report.equal("pixels", *found, atol=1e-5)

    def read(side) -> None:
        for start in range(0, count, photos.BATCH):
            side(names[start : start + photos.BATCH], return_tensors="pt")

    work = f"processor, {count:,} photos"
    report.race(work, partial(read, ours), partial(read, theirs), 2.0)
    report.race(f"{work}; Pillow alone", partial(read, ours), partial(photos._bare, paths), 0.0, "Pillow")
    raw = photos.MMImageProcessorPil(**(ours.to_dict() | {"do_rescale": False, "do_normalize": False}))
    report.race(
        f"{work}, 2 workers; 1", *(partial(photos.epoch, paths, workers, raw) for workers in (2, 1)), LEAST_WORKERS,
        "1 worker", cost=lambda way: harness.Cost(*way()), warm_up=0,
    )  # fmt: skip


def writing(report: harness.Report, old: str) -> None:
    """mm-tiny, batch 1: until the first token of generate(), and a token after it, in ms."""
    command = ["-W", "ignore", str(Path(decode_step.__file__)), "--worker"]
    servers = [harness.Server([python, *command]) for python in (sys.executable, old)]
    report.equal("tokens", *(torch.tensor(server.start) for server in servers))
    for work, question in (("mm-tiny, first token, ms", "first"), ("mm-tiny, a further token, ms", "")):
        ours, other = (partial(server.cost, question) for server in servers)
        report.race(work, ours, other, 1.35, "older mm", of="cpu", cost=lambda way: way())
    for server in servers:
        server.end()


def main(arguments: list[str] | None = None) -> int:
    parser = harness.options(__doc__)
    parser.add_argument("--old", help="an interpreter whose environment has an older mm, for the rows of mm-tiny")
    asked = parser.parse_args(arguments)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    report = harness.Report(asked)
    report.titles()
    with tempfile.TemporaryDirectory() as name:
        checkpoints(report, Path(name))
        folder = Path(name) / "photos"
        folder.mkdir()
        reading(report, folder, 2 * FIRST if asked.tiny else 1000)
    if asked.old:
        writing(report, asked.old)
    else:
        report.say("mm-tiny beside an older version: not measured without --old")
    imports(report)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
