"""Training mm-tiny from shards beside the Trainer loop of an older version; the wait for data; a stream's memory.

    python benchmarks/training_throughput.py OLD_PYTHON NEW_PYTHON --log benchmarks/logs/training_throughput.txt
    python benchmarks/training_throughput.py OLD_PYTHON NEW_PYTHON --tiny --pairs 1      # small, to see that it runs

OLD_PYTHON has the `mm` of commit 4496661: a worktree of that commit with an environment of its own. Both train the
same model on the same pictures in the same order, each with the loader that it has: a list of files and Trainer, or
shards and MMTrainer. Each uses one thread and one worker. Both stay alive and take turns after every run. Losses are
compared first where pictures are not augmented (the two draw other views).

    all       everything is trained, pictures of 640 x 480       wanted: 1.0x; a wait below 5 % of the time of a step
    frozen    the vision tower is frozen, augmentation is on     wanted: 1.3x
    photos    the same with photos of 12 MP                      wanted: 1.5x
    plain     photos of 12 MP, frozen, without augmentation      wanted: 1.5x

Ratios are of wall time; those of the CPU time of all processes stand beside them. Wait: the share of a step, from the
third one on, in which Trainer waits for its batch. Load: CPU time of the worker in that of the main process. Where the
tower is frozen one worker needs longer for a batch than the model for its step; the wait is told there and not judged.

At last a reader goes through a million samples (in shards made on the spot) and must not grow by more than 2 %.
"""

import argparse
import io
import os
import statistics
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CASES = {"all": (640, 480), "frozen": (640, 480), "photos": (4000, 3000), "plain": (4000, 3000)}
WANTED = {"all": 1.0, "frozen": 1.3, "photos": 1.5, "plain": 1.5}
AUGMENTED = ("frozen", "photos")
MOST_WAIT, MOST_GROWTH = 0.05, 1.02
BATCH = 16  # also the samples of a shard


def photo(number: int, size: tuple[int, int]) -> bytes:
    """A JPEG of soft shapes with some grain."""
    rng = np.random.default_rng(number)
    soft = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(size)
    grain = rng.integers(0, 12, (size[1], size[0], 1), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.asarray(soft) // 16 * 15 + grain).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_shard(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def text(number: int) -> str:
    return f"a picture of the number {number}"


def write_photos(folder: Path, size: tuple[int, int], shards: int) -> None:
    """A shard of BATCH pictures and the same as files; the other shards are further names of the first."""
    photos = [photo(number, size) for number in range(BATCH)]
    for number, data in enumerate(photos):
        (folder / f"{number:02d}.jpg").write_bytes(data)
    members = [(f"{n:02d}.{field}", data) for n, jpg in enumerate(photos) for field, data in
               (("jpg", jpg), ("txt", text(n).encode()))]  # fmt: skip
    write_shard(folder / "0000.tar", members)
    for number in range(1, shards):
        os.link(folder / "0000.tar", folder / f"{number:04d}.tar")


# -- one training, in an interpreter of its own -----------------------------------------------------------------------


def run_training(folder: Path, case: str, steps: int) -> dict[str, float]:
    """Seconds of CPU and wall time, the share of the wait, the worker's share of the CPU time and the mean loss."""
    import torch
    from torch.utils.data import SequentialSampler
    from transformers import (
        AutoModelForImageTextToText,
        AutoProcessor,
        PrinterCallback,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
    )

    import mm

    torch.set_num_threads(1)
    torch.manual_seed(0)
    checkpoint = ROOT / "checkpoints/mm-tiny"
    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    if case != "all":
        model.model.vision_tower.requires_grad_(False)
    if case in AUGMENTED:
        processor.image_processor.augmentation = {"crop": [0.6, 1.0], "flip": 0.5, "rotation": 10, "operations": 2}
    collator = mm.MMDataCollator(processor, **({"augment": "saved"} if case in AUGMENTED else {}))
    kind: Any = getattr(mm, "MMTrainer", Seq2SeqTrainer)
    files = [{"image": str(path), "suffix": text(int(path.stem))} for path in sorted(folder.glob("*.jpg"))]
    data: Any = mm.MMShards(str(folder)) if hasattr(mm, "MMShards") else files * steps
    marks: list[tuple[float, float]] = []

    class Timed(kind):
        def _get_train_sampler(self, *args, **kwargs):
            return SequentialSampler(data)  # as the shards come

        def get_batch_samples(self, *args, **kwargs):
            begin = time.perf_counter()
            found = super().get_batch_samples(*args, **kwargs)
            marks.append((begin, time.perf_counter()))
            return found

    with tempfile.TemporaryDirectory() as output:
        arguments = Seq2SeqTrainingArguments(
            output_dir=output, max_steps=steps, per_device_train_batch_size=BATCH, dataloader_num_workers=1,
            save_strategy="no", logging_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
            remove_unused_columns=False,
        )  # fmt: skip
        trainer = Timed(model=model, args=arguments, train_dataset=data, data_collator=collator)
        trainer.remove_callback(PrinterCallback)
        before, begin = os.times(), time.perf_counter()
        loss = trainer.train().training_loss
        wall, after = time.perf_counter() - begin, os.times()
    own, children = sum(after[:2]) - sum(before[:2]), sum(after[2:4]) - sum(before[2:4])
    waits = sum(end - start for start, end in marks[2:])
    wait = waits / (marks[-1][1] - marks[2][0])
    return {"cpu": own + children, "wall": wall, "wait": wait, "load": children / own, "loss": loss}


def walk(samples: int) -> dict[str, list[float]]:
    """MB of memory after each tenth of so many samples, and the microseconds of CPU that each took."""
    import mm

    each = min(10_000, samples // 10)
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "0.tar"
        data = photo(0, (16, 16))
        write_shard(first, [(f"{n:06d}.{f}", d) for n in range(each) for f, d in (("jpg", data), ("txt", b"a text"))])
        paths = [str(first)]
        for number in range(1, samples // each):
            paths.append(str(Path(folder) / f"{number}.tar"))
            os.link(first, paths[-1])
        held, spent, start = [], [], time.process_time()
        for count, _ in enumerate(mm.MMShards(paths, shuffle=1000), 1):
            if count % (samples // 10) == 0:
                held.append(harness.status("VmRSS") / 1e6)
                spent.append((time.process_time() - start) / count * 1e6)
    return {"held": held, "spent": spent}


# -- the table --------------------------------------------------------------------------------------------------------


def compared(pythons: list[str], case: str, steps: int, pairs: int, report: harness.Report) -> None:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder), CASES[case], steps)
        command = ["-W", "ignore", __file__, "--worker", case, "--folder", folder, "--steps", str(steps)]
        sides = [harness.Server([python, *command]) for python in pythons]  # the first run of each is its start
        losses = [side.start["loss"] for side in sides]
        if case not in AUGMENTED and not abs(losses[0] - losses[1]) < 1e-3:
            raise RuntimeError(f"{case}: the losses are {losses}; times would mean nothing")
        found: tuple[list[dict], list[dict]] = ([], [])
        for number in range(pairs):
            for place in (0, 1) if number % 2 == 0 else (1, 0):
                found[place].append(sides[place].ask())
        for side in sides:
            side.end()
    ratios = {name: [old[name] / new[name] for old, new in zip(*found, strict=True)] for name in ("wall", "cpu")}
    wall, cpu = (statistics.median(ratios[name]) for name in ("wall", "cpu"))
    waits, loads = ([statistics.median(one[name] for one in side) for side in found] for name in ("wait", "load"))
    report.say(
        f"{case:7}{wall:6.2f}x [{min(ratios['wall']):.2f}, {max(ratios['wall']):.2f}]{cpu:9.2f}x{WANTED[case]:8.1f}x"
        f"{waits[0]:10.1%} ->{waits[1]:7.1%}{loads[0]:9.2f} ->{loads[1]:5.2f}   {losses[0]:.4f} {losses[1]:.4f}"
    )
    report.row(case=case, wall=wall, cpu=cpu, wait=waits[1], load=loads[1], losses=losses)
    report.want(f"{case}, wall time", wall, WANTED[case])
    if case == "all" and waits[1] >= MOST_WAIT:
        report.faults.append(f"{case}: a step waits for its data in {waits[1]:.1%} of its time, wanted below 5 %")


def memory(python: str, samples: int, report: harness.Report) -> None:
    command = [python, "-W", "ignore", __file__, "--worker", "memory", "--samples", str(samples)]
    side = harness.Server(command)
    side.end()
    held, spent = side.start["held"], side.start["spent"]
    growth = max(held[1:]) / held[0]
    report.say(f"\na reader of {samples:,} samples: {spent[-1]:.0f} us of CPU each; MB after each tenth:")
    report.say(" ".join(f"{one:.1f}" for one in held) + f" (largest / first: {growth:.3f})")
    report.row(case="memory", held=held, growth=growth)
    if growth > MOST_GROWTH:
        report.faults.append(f"the memory of a reader grew {growth:.2f} times, wanted at most {MOST_GROWTH}")


def main() -> int:
    parser = harness.options(__doc__)
    parser.add_argument("pythons", nargs="*", help="two interpreters: of the old and of the new version")
    parser.add_argument("--cases", nargs="+", choices=[*CASES, "memory"], default=[*CASES, "memory"])
    parser.add_argument("--steps", type=int, help="of a run (default: 20; 4 with --tiny)")
    parser.add_argument("--samples", type=int, help="of the reader whose memory is looked at (default: a million)")
    for hidden in ("--worker", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker == "memory":
        harness.serve(walk(asked.samples), lambda line: None)
        return 0
    if asked.worker:
        folder = Path(asked.folder)
        harness.serve(
            run_training(folder, asked.worker, 4), lambda line: run_training(folder, asked.worker, asked.steps)
        )
        return 0
    if len(asked.pythons) != 2:
        parser.error(f"two interpreters are needed, old and new; got {len(asked.pythons)}")
    steps = asked.steps or (4 if asked.tiny else 20)
    os.environ["OMP_NUM_THREADS"] = "1"
    report = harness.Report(asked)
    report.say(
        f"{steps} steps of {BATCH} pictures, one thread and one worker, medians of {asked.pairs} pairs, old / new"
    )
    report.say("         wall time          CPU time  wanted   wait old -> new   load old -> new   losses of 4 steps")
    for case in asked.cases:
        if case == "memory":
            memory(asked.pythons[1], asked.samples or (10_000 if asked.tiny else 1_000_000), report)
        else:
            compared(asked.pythons, case, steps, asked.pairs, report)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
