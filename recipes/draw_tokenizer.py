"""The tokenizer of the drawing model: emoji of 64 x 64 pixels as 64 codes, on one CPU core.

It is trained on five vendors (`draw_data.py`) and reports on styles that it never saw. The loss is that of the model
and, later, the perceptual distance by EfficientNet-Lite0 and a discriminator of patches, as their weights say.
Batches are a function of the step, so a run that was interrupted continues as if it had not been.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..configuration.image_tokenizer import MMImageTokenizerConfig
from ..conversion_scripts.efficientnet_lite import IMAGE_MEAN, IMAGE_STD, load_efficientnet_lite0
from ..modeling_mm.losses.image_losses import (
    PatchDiscriminator,
    PerceptualLoss,
    adaptive_weight,
    discriminator_hinge_loss,
    generator_hinge_loss,
)
from ..modeling_mm.towers.image_tokenizer import MMImageTokenizer
from .draw_data import SIZE
from .sources import efficientnet_lite0_file

SEED = 0
# Tokens of a picture -> settings. 64 are what the drawing model writes; 256 keep more of a picture.
SETTINGS = {
    64: {"image_size": SIZE, "patch_size": 4, "widths": [96, 128], "depth": 2, "levels": [8, 8, 8, 8]},
    256: {"image_size": SIZE, "patch_size": 4, "widths": [96], "depth": 3, "levels": [8, 8, 8, 8]},
}
WARMUP = 100  # steps
CPU = {"device_type": "cpu", "dtype": torch.bfloat16}


class Clock:
    """CPU minutes of training, over interruptions."""

    def __init__(self, before: float = 0.0):
        self.before = before - time.process_time() / 60

    def minutes(self) -> float:
        return self.before + time.process_time() / 60


def rate_at(step: int, steps: int, peak: float) -> float:
    """A warm-up, then half a cosine down to a hundredth."""
    return peak * min(1.0, (step + 1) / WARMUP) * max(0.01, (1 + math.cos(math.pi * step / steps)) / 2)


def batch_of(items: torch.Tensor, step: int, size: int) -> torch.Tensor:
    """float (size, 3, H, W) in 0..1 of step `step`: each epoch sees each picture once, half of them mirrored."""
    chosen = []
    for place in range(step * size, (step + 1) * size):
        epoch, number = divmod(place, len(items))
        chosen.append(_order(epoch, len(items))[number])
    mirrored = torch.rand(size, generator=torch.Generator().manual_seed(step)) < 0.5
    batch = items[torch.stack(chosen)].float() / 255
    return torch.where(mirrored.view(-1, 1, 1, 1), batch.flip(3), batch)


_orders: dict[int, torch.Tensor] = {}


def _order(epoch: int, count: int) -> torch.Tensor:
    if epoch not in _orders:
        _orders.clear()
        _orders[epoch] = torch.randperm(count, generator=torch.Generator().manual_seed(SEED + epoch))
    return _orders[epoch]


class Learner:
    """A tokenizer with all that its training needs, and one step of it."""

    def __init__(self, model: MMImageTokenizer, options: argparse.Namespace):
        self.model, self.options = model.train().to(memory_format=torch.channels_last), options  # pyright: ignore[reportCallIssue]
        tower = load_efficientnet_lite0(efficientnet_lite0_file(), 128).eval()
        self.perceptual = PerceptualLoss(tower, IMAGE_MEAN, IMAGE_STD, num_stages=4)
        torch.manual_seed(SEED)
        self.discriminator = PatchDiscriminator()
        self.optimizer, self.other = (
            torch.optim.AdamW(part.parameters(), lr=options.rate, betas=(0.9, 0.98), weight_decay=0.01)
            for part in (self.model, self.discriminator)
        )

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {
            "model": self.model, "discriminator": self.discriminator, "optimizer": self.optimizer, "other": self.other
        }  # fmt: skip

    def step(self, step: int, pictures: torch.Tensor) -> dict[str, float]:
        """One step of both networks; its losses."""
        options = self.options
        for optimizer in (self.optimizer, self.other):
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, options.steps, options.rate)
        with torch.autocast(**CPU):
            output = self.model(pictures)
        made, loss = output.reconstruction.float(), output.loss
        losses = {"pixels": loss.item()}
        if options.perceptual_weight and step >= options.perceptual_from * options.steps:
            distance = self.perceptual(made.clamp(0, 1) + (made - made.clamp(0, 1)), pictures)
            loss, losses["perceptual"] = loss + options.perceptual_weight * distance, distance.item()
        if options.adversarial_weight and step >= options.adversarial_from * options.steps:
            fooled = generator_hinge_loss(self.discriminator(made))
            factor = adaptive_weight(loss, fooled, self.model.decoder.patches.weight)
            loss = loss + options.adversarial_weight * factor * fooled
            losses["adversarial"] = fooled.item()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if "adversarial" in losses:
            self.other.zero_grad(set_to_none=True)
            discriminator_hinge_loss(self.discriminator(pictures), self.discriminator(made.detach())).backward()
            self.other.step()
        return losses


def train(
    items: torch.Tensor, options: argparse.Namespace, folder: Path, told: Callable[[MMImageTokenizer], dict]
) -> MMImageTokenizer:
    """Trains a tokenizer on uint8 (n, 3, H, W), with a checkpoint every `options.save_every` steps.

    told: numbers of the model so far, for the log.
    """
    torch.manual_seed(SEED)
    model = MMImageTokenizer(MMImageTokenizerConfig(**SETTINGS[options.tokens]))
    learner, begin, clock = Learner(model, options), 0, Clock()
    checkpoint = folder / "checkpoint.pt"
    if options.resume and checkpoint.exists():
        held = torch.load(checkpoint, weights_only=True)
        for name, part in learner.parts().items():
            part.load_state_dict(held[name])
        begin, clock = held["step"], Clock(held["minutes"])
    for step in range(begin, options.steps):
        losses = learner.step(step, batch_of(items, step, options.batch_size))
        if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
            minutes = clock.minutes()
            line = {"step": step + 1, "cpu_minutes": round(minutes, 2), **losses, **told(model)}
            with (folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)
            held = {name: part.state_dict() for name, part in learner.parts().items()}
            torch.save({**held, "step": step + 1, "minutes": minutes}, folder / "checkpoint.part")
            (folder / "checkpoint.part").rename(checkpoint)
            clock = Clock(minutes)
    return model.eval()


@torch.no_grad()
def reconstructed(model: MMImageTokenizer, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 (n, 3, H, W) -> (float pictures in 0..1, ids) as `decode(encode())` gives them."""
    ids = torch.cat([model.encode(part.float() / 255) for part in items.split(64)])
    return torch.cat([model.decode(part) for part in ids.split(64)]), ids


# -- one code for what is white ---------------------------------------------------------------------------------------

WHITE = 0.995  # of a patch's darkest channel


def white_patches(pictures: torch.Tensor, patch: int) -> torch.Tensor:
    """bool (B, N): which patches of float (B, 3, H, W) are white all over."""
    dark = (pictures.amin(1, keepdim=True) <= WHITE).float()
    return (F.max_pool2d(dark, patch) == 0).flatten(1)


def with_white(model: MMImageTokenizer, pictures: torch.Tensor, ids: torch.Tensor, white: int) -> torch.Tensor:
    """ids (B, N) with the code `white` at every white patch."""
    side = pictures.shape[-1] // model.grid[0]
    return torch.where(white_patches(pictures, side), white, ids)


@torch.no_grad()
def codes_of(model: MMImageTokenizer, items: torch.Tensor, white: int) -> torch.Tensor:
    """int64 (n, N) of uint8 (n, 3, H, W), with one code for what is white."""
    parts = [part.float() / 255 for part in items.split(64)]
    return torch.cat([with_white(model, part, model.encode(part), white) for part in parts])


def learn_white(
    model: MMImageTokenizer, items: torch.Tensor, options: argparse.Namespace, folder: Path,
    told: Callable[[MMImageTokenizer, int], dict],
) -> int:  # fmt: skip
    """The code of white, after the decoder has learned to read it: as often with white patches as it wrote them, in
    hundreds of codes, as with one. The encoder stays as it is."""
    model.eval()
    first = [part.float() / 255 for part in items[:512].split(64)]
    is_white = torch.cat([white_patches(part, part.shape[-1] // model.grid[0]) for part in first])
    white = int(torch.cat([model.encode(part) for part in first])[is_white].mode().values)
    tower = load_efficientnet_lite0(efficientnet_lite0_file(), 128).eval()
    perceptual = PerceptualLoss(tower, IMAGE_MEAN, IMAGE_STD, num_stages=4)
    optimizer = torch.optim.AdamW(model.decoder.parameters(), lr=options.rate, betas=(0.9, 0.98), weight_decay=0.01)
    clock = Clock()
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, options.steps, options.rate)
        pictures = batch_of(items, step, options.batch_size)
        ids = model.encode(pictures)
        ids = torch.where((torch.arange(len(ids)) % 2 == 0)[:, None], with_white(model, pictures, ids, white), ids)
        with torch.autocast(**CPU):
            made = model._decoded(model.quantizer.codes(ids.unflatten(1, model.grid)))
        made = made.float()
        error = made - pictures
        distance = perceptual(made.clamp(0, 1) + (made - made.clamp(0, 1)), pictures)
        loss = error.abs().mean() + error.square().mean() + options.perceptual_weight * distance
        loss.backward()
        nn.utils.clip_grad_norm_(model.decoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    line = {"step": options.steps, "cpu_minutes": round(clock.minutes(), 2), **told(model, white)}
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps({"phase": "white", **line}) + "\n")
    print(line, flush=True)
    return white
