"""Training beside transformers' class and beside the plain way, of the same weights: time and memory.

python benchmarks/training.py --threads 2 --log benchmarks/logs/training.txt

blip      a step of BLIP-base at 384 px: forward, backward and AdamW (the same call on both sides), all weights
          trained, fp32, 20 tokens a caption; losses and gradients of the first step are equal before anything is
          timed. Memory is the most that a step holds above weights, gradients and the state of the optimizer;
          activations are not checkpointed. transformers' BLIP has no other attention than its own (5.23)
features  ten epochs of mm-tiny with a frozen image tower on JPEG files of 640 x 480, by stored features and by
          pictures: equal losses first. Making the features is part of the first row
"""

import contextlib
import io
import json
import shutil
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
from peers import blip as blip_pair
from peers import pictures, sizes_of, words

import mm


def step_of(model: Any, batch: dict[str, torch.Tensor]) -> Callable[[], float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step() -> float:
        optimizer.zero_grad(set_to_none=False)
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def first_step(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and the norm of the gradients of all weights."""
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    norms = [weight.grad.norm() for weight in model.parameters() if weight.grad is not None]
    return loss.detach(), torch.stack(norms).norm()


def blip(report: Report) -> Iterator[Row]:
    peer, ours, size = blip_pair(sizes_of(report))
    models = {"ours": ours.train(), "peer": peer.train()}
    for count in (2, 4):
        ids = words(count, 20)
        ids[:, 0] = peer.config.text_config.bos_token_id
        batch = {"pixel_values": pictures(count, size), "input_ids": ids, "labels": ids.clone()}
        found, wanted = (first_step(model, batch) for model in models.values())
        report.equal("losses", found[0], wanted[0], atol=1e-5)
        report.equal("norms of gradients", found[1], wanted[1], atol=1e-4)
        steps = {side: step_of(model, batch) for side, model in models.items()}
        yield Row(f"BLIP-base training step, batch {count}", *steps.values(), 1.2, None)
        mib = {side: harness.peak_of(step) / 2**20 for side, step in steps.items()}
        ratio = mib["peer"] / mib["ours"]
        report.say(
            f"  memory above weights, gradients, AdamW: {mib['ours']:.0f} of {mib['peer']:.0f} MiB ({ratio:.2f}x)"
        )
        report.row(batch=count, mib=mib)
        report.want(f"memory of a step of {count} pictures", ratio, 1 / 0.6)


def write_data(folder: Path, count: int) -> Path:
    lines = []
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(photos.photo(number, (640, 480)))
        lines.append({"image": f"{number}.jpg", "suffix": f"a picture of number {number}"})
    path = folder / "captions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def train(data: Path, epochs: int, store: Path | None, anew: bool = False) -> torch.Tensor:
    """The losses of the steps."""
    output = data.parent / "out"
    for folder in (output, *([store] if anew and store else [])):
        shutil.rmtree(folder, ignore_errors=True)
    settings: dict[str, Any] = {} if store is None else {"feature_cache": str(store)}
    with contextlib.redirect_stdout(io.StringIO()):
        result = mm.train(
            "caption", data=str(data), output=str(output), say=lambda line: None, freeze="vision", eval_share=0,
            num_train_epochs=epochs, per_device_train_batch_size=16, logging_steps=1, save_strategy="no",
            use_cpu=True, disable_tqdm=True, **settings,
        )  # fmt: skip
    return torch.tensor([float(line["loss"]) for line in result.log_history if "loss" in line])


def features(report: Report) -> Iterator[Row]:
    count, epochs = (16, 2) if report.asked.tiny else (256, 10)
    with tempfile.TemporaryDirectory() as name:
        data, store = write_data(Path(name), count), Path(name) / "features"
        plain = partial(train, data, epochs, None)
        for way, anew in (("features", True), ("features that are there", False)):
            ours = partial(train, data, epochs, store, anew)
            work = f"frozen tower, {epochs} epochs, {way}"
            yield Row(work, ours, plain, 2.0, 1e-4, "by pictures", of="cpu", warm_up=0)


def main(arguments: list[str] | None = None) -> int:
    return harness.table(harness.options(__doc__), {"blip": blip, "features": features}, arguments)


if __name__ == "__main__":
    sys.exit(main())
