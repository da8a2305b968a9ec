"""Ten epochs of mm-tiny with a frozen image tower, by stored features and by pictures: equal losses first, then CPU.

    python benchmarks/feature_store.py --threads 1 --log benchmarks/logs/feature_store.txt

Both ways train the same captioner by a recipe, on the same JPEG files of 640 x 480, without augmentation. The way with
the store begins with an empty folder in each turn, so making the features is part of its cost. Wanted: half the CPU
seconds; the cost of a second run, whose features are there, is told beside it.
"""

import contextlib
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
from training_throughput import photo

import mm

SIZE = (640, 480)


def write_data(folder: Path, count: int) -> Path:
    lines = []
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(photo(number, SIZE))
        lines.append({"image": f"{number}.jpg", "suffix": f"a picture of number {number}"})
    path = folder / "captions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def train(data: Path, output: Path, epochs: int, store: Path | None) -> list[float]:
    """The losses of the steps."""
    shutil.rmtree(output, ignore_errors=True)
    settings: dict[str, Any] = {} if store is None else {"feature_cache": str(store)}
    with contextlib.redirect_stdout(io.StringIO()):
        result = mm.train(
            "caption", data=str(data), output=str(output), say=lambda line: None, freeze="vision", eval_share=0,
            num_train_epochs=epochs, per_device_train_batch_size=16, logging_steps=1, save_strategy="no",
            use_cpu=True, disable_tqdm=True, **settings,
        )  # fmt: skip
    return [float(line["loss"]) for line in result.log_history if "loss" in line]


def main(arguments: list[str] | None = None) -> int:
    asked = harness.options(__doc__, pairs=3).parse_args(arguments)
    count, epochs = (16, 2) if asked.tiny else (256, 10)
    report = harness.Report(asked)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, store = write_data(folder, count), folder / "features"

        def by_pictures() -> list[float]:
            return train(data, folder / "out", epochs, None)

        def by_features() -> list[float]:
            shutil.rmtree(store, ignore_errors=True)
            return train(data, folder / "out", epochs, store)

        def again() -> list[float]:
            return train(data, folder / "out", epochs, store)

        plain, stored = by_pictures(), by_features()
        apart = max(abs(one - other) for one, other in zip(plain, stored, strict=True))
        if len(plain) != len(stored) or not apart < 1e-4:
            raise RuntimeError(f"the losses differ by {apart:.1e}; times would mean nothing")
        size = sum(path.stat().st_size for path in store.rglob("*.safetensors"))
        report.say(
            f"{count} pictures, {epochs} epochs, losses apart by {apart:.1e}; the store has {size / 2**20:.1f} MiB"
        )
        report.titles()
        for way, run in (("features", by_features), ("features that are there", again)):
            report.race(
                f"frozen tower, {epochs} epochs, {way}", run, by_pictures, 2.0, "by pictures", of="cpu", warm_up=0
            )
        report.row(apart=apart, bytes=size)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
