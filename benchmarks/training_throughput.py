"""Training mm-tiny from shards: beside the Trainer loop of another version, the wait for data, and a stream's memory.

python benchmarks/training_throughput.py memory [--samples 1000000]
python benchmarks/training_throughput.py train OLD_PYTHON NEW_PYTHON [--steps 20] [--pairs 5]    # the whole table

OLD_PYTHON has the `mm` of the version before (an environment of a worktree of commit 4496661). Both train the same
model on the same pictures, with the loader that they have: files in a list and Trainer; shards and MMTrainer where
there is one. They run in turn; the CPU time of all processes of a run is compared, and the wall time, which means
something only on an idle machine. The cases:

    all       everything is trained, pictures of 640 x 480
    frozen    the vision tower is frozen, augmentation is on
    photos    the vision tower is frozen, photos of 12 MP

Wait: the share of the time of a step (from the third one on) in which Trainer waits for its batch.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CASES = {"all": (640, 480), "frozen": (640, 480), "photos": (4000, 3000)}
TARGETS = {"all": 1.0, "frozen": 1.3, "photos": 1.5}
BATCH = 16


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


def write_photos(folder: Path, size: tuple[int, int], count: int) -> None:
    """The same pictures as files and in two shards."""
    photos = [photo(number, size) for number in range(count)]
    for number, data in enumerate(photos):
        (folder / f"{number:04d}.jpg").write_bytes(data)
    for part in range(2):
        members = [
            (f"{number:04d}.{field}", data)
            for number in range(part, count, 2)
            for field, data in (("jpg", photos[number]), ("txt", f"a picture of the number {number}".encode()))
        ]
        write_shard(folder / f"photos-{part}.tar", members)


def memory(samples: int) -> None:
    """The memory of a reader over many samples: 10,000 in a file, which has as many names as it takes."""
    import mm

    each = min(10_000, samples)
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "0.tar"
        data = photo(0, (16, 16))
        write_shard(first, [(f"{n:06d}.{f}", d) for n in range(each) for f, d in (("jpg", data), ("txt", b"a text"))])
        paths = [str(first)]
        for number in range(1, samples // each):
            paths.append(str(Path(folder) / f"{number}.tar"))
            os.link(first, paths[-1])
        start, count = time.process_time(), 0
        for count, _ in enumerate(mm.MMShards(paths, shuffle=1000), 1):
            if count == each or count % (samples // 10) == 0:
                status = Path("/proc/self/status").read_text().split()
                held = int(status[status.index("VmRSS:") + 1]) / 1024
                spent = (time.process_time() - start) / count * 1e6
                print(f"{count:9,} samples: {held:6.1f} MB in memory, {spent:5.0f} us of CPU per sample", flush=True)


def run_training(folder: Path, case: str, steps: int) -> None:
    """One training, in an interpreter of its own: prints seconds of CPU and wall time, the wait and the last loss."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor, Seq2SeqTrainer, Seq2SeqTrainingArguments

    import mm

    torch.set_num_threads(1)
    torch.manual_seed(0)
    checkpoint = ROOT / "checkpoints/mm-tiny"
    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    if case != "all":
        model.model.vision_tower.requires_grad_(False)
    if case == "frozen":
        processor.image_processor.augmentation = {"crop": [0.6, 1.0], "flip": 0.5, "rotation": 10, "operations": 2}
    collator = mm.MMDataCollator(processor, **({"augment": "saved"} if case == "frozen" else {}))
    kind: Any = getattr(mm, "MMTrainer", Seq2SeqTrainer)
    data: Any
    if hasattr(mm, "MMShards"):
        data = mm.MMShards(str(folder))
    else:
        data = [
            {"image": str(path), "suffix": f"a picture of the number {int(path.stem)}"}
            for path in sorted(folder.glob("*.jpg"))
        ]
    marks: list[tuple[float, float]] = []

    class Timed(kind):
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
        before, begin = os.times(), time.perf_counter()
        loss = trainer.train().training_loss
        wall, after = time.perf_counter() - begin, os.times()
    waits = sum(end - start for start, end in marks[2:])
    total = marks[-1][1] - marks[2][0] if len(marks) > 3 else float("nan")
    print(json.dumps({"cpu": sum(after[:4]) - sum(before[:4]), "wall": wall, "wait": waits / total, "loss": loss}))


def train(pythons: list[str], steps: int, pairs: int, cases: list[str]) -> None:
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}; {steps} steps of {BATCH}, {pairs} pairs")
    print("case      CPU old / new  wall old / new  target  wait old  wait new  last losses")
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            write_photos(Path(folder), CASES[case], 64 if case != "photos" else 16)
            found: tuple[list[dict], list[dict]] = ([], [])
            for number in range(pairs):
                for place in (0, 1) if number % 2 == 0 else (1, 0):
                    command = [pythons[place], "-W", "ignore", __file__, "run", folder, case, "--steps", str(steps)]
                    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                    told = subprocess.run(command, capture_output=True, text=True, env=environment)
                    if told.returncode:
                        raise RuntimeError(told.stderr[-3000:])
                    found[place].append(json.loads(told.stdout.splitlines()[-1]))
        runs = list(zip(*found, strict=True))
        cpu, wall = (statistics.median(old[name] / new[name] for old, new in runs) for name in ("cpu", "wall"))
        waits = [statistics.median(one["wait"] for one in side) for side in found]
        losses = " ".join(f"{side[-1]['loss']:.4f}" for side in found)
        print(
            f"{case:8s}  {cpu:13.2f}  {wall:14.2f}  {TARGETS[case]:6.1f}  {waits[0]:8.1%}  {waits[1]:8.1%}  {losses}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="what", required=True)
    one = parts.add_parser("memory")
    one.add_argument("--samples", type=int, default=1_000_000)
    two = parts.add_parser("train")
    two.add_argument("pythons", nargs=2)
    two.add_argument("--pairs", type=int, default=5)
    two.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    three = parts.add_parser("run")
    three.add_argument("folder", type=Path)
    three.add_argument("case", choices=list(CASES))
    for part in (two, three):
        part.add_argument("--steps", type=int, default=20)
    asked = parser.parse_args()
    if asked.what == "memory":
        memory(asked.samples)
    elif asked.what == "train":
        train(asked.pythons, asked.steps, asked.pairs, asked.cases)
    else:
        run_training(asked.folder, asked.case, asked.steps)


if __name__ == "__main__":
    sys.exit(main())
