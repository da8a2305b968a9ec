"""The first half of the recipe of checkpoints/mm-tiny: drawings in, their English names out, in half an hour.

    python -m mm.recipes.emoji_captions --output runs/mm-tiny-en                # trains, evaluates on Twemoji, saves
    python -m mm.recipes.emoji_captions --output runs/mm-tiny-en --resume       # resumes after an interruption
    mm train recipes/mm_tiny.yaml --resume                                      # this and the second half

The vision tower is EfficientNet-Lite0 with its ImageNet weights; the decoder is new, its token embeddings start from
MiniLM's. First only the decoder learns, on features of the frozen tower that are computed once; then the tower's late
stages learn with it, on fresh views in every epoch. Training looks at six styles of the 1301 seen names; Twemoji, a
style that it never sees, is the development set.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from ..configuration.mm import MMConfig
from ..conversion_scripts.efficientnet_lite import load_efficientnet_lite0
from ..evaluation.captions import exact_match
from ..modeling_mm.tasks.generation import MMForConditionalGeneration
from ..modeling_mm.tasks.pretraining import MMForPreTraining
from ..modeling_mm.towers.conv import MMConvModel
from .drawings import SEED, SIZE, Drawings, Features, caption_ids, normalised
from .emoji import DEV_VENDOR, TRAIN_VENDORS, EmojiItem, load_items, pictures, split_of
from .resumed import go_on
from .sources import efficientnet_lite0_file, minilm_directory
from .vocabulary import pruned_tokenizer

FROZEN_STAGES = 4  # of seven; the stem too


def embeddings_from(minilm: Path, tokenizer, width: int, std: float) -> torch.Tensor:
    """(V, width): MiniLM's embeddings of the same pieces, by their principal components, at the given scale."""
    table = load_file(minilm / "model.safetensors")["embeddings.word_embeddings.weight"].float()
    ids = {piece: i for i, piece in enumerate((minilm / "vocab.txt").read_text(encoding="utf-8").split("\n"))}
    kept = table[[ids[piece] for piece in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))]]
    kept = kept - kept.mean(0)
    components = torch.linalg.svd(kept, full_matrices=False)[2][:width]
    projected = kept @ components.T
    return projected * (std / projected.std())


def build_model(tokenizer, minilm: Path) -> MMForConditionalGeneration:
    """The model at the start of training: ImageNet's tower, MiniLM's token embeddings, the rest new."""
    torch.manual_seed(SEED)
    config = MMConfig.preset("mm-tiny", text_config={"vocab_size": len(tokenizer)})
    model = MMForConditionalGeneration(config)
    tower = load_efficientnet_lite0(efficientnet_lite0_file(), SIZE)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    text = config.text_config
    embeddings = embeddings_from(minilm, tokenizer, text.hidden_size, text.initializer_range)
    model.model.language_model.embed_tokens.weight.data.copy_(embeddings)
    return model


def freeze_early_stages(model: MMForConditionalGeneration | MMForPreTraining) -> None:
    """Freezes stem and early stages, and runs the later ones in fp32 inside bf16 autocast.

    Measured on one core at 128 pixels: forward and backward of the late stages run at 143 pictures/s in fp32 and 67 in
    bf16 (the gradient of a depthwise convolution is slow there); the whole tower's forward at 157 and 289.
    """
    tower = cast(MMConvModel, model.model.vision_tower)
    stages = list(tower.stages)
    for part in (tower.stem, *stages[:FROZEN_STAGES]):
        part.requires_grad_(False)
    for part in (*stages[FROZEN_STAGES:], tower.head):
        # an instance may have a forward of its own
        part.forward = _in_float32(part.forward)  # pyright: ignore[reportAttributeAccessIssue]


def _in_float32(forward):
    def run(pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return forward(pixels.float())

    return run


@torch.no_grad()
def captions(model, tokenizer, items: list[EmojiItem], num_beams: int = 1, batch_size: int = 64) -> list[str]:
    """The model's names for drawings, cropped to their content."""
    model.eval()
    found = []
    for start in range(0, len(items), batch_size):
        chosen = torch.from_numpy(pictures(items[start : start + batch_size], SIZE, crop=True)).permute(0, 3, 1, 2)
        ids = model.generate(
            pixel_values=normalised(chosen.float() / 255), max_new_tokens=16, num_beams=num_beams, do_sample=False
        )
        found += tokenizer.batch_decode(ids, skip_special_tokens=True)
    return found


class DevScore(TrainerCallback):
    """Writes exact match on every fourth picture of the development set, and the CPU minutes of training so far.

    Minutes count this process and those that it resumed: features and training, and the drawing of pictures where
    they are not drawn yet; not these evaluations.
    """

    def __init__(self, tokenizer, items: list[EmojiItem], log: Path, phase: str, every: int):
        self.tokenizer, self.items, self.log, self.phase, self.every = tokenizer, items, log, phase, every

    def on_epoch_end(self, args, state, control, *, model, **kwargs):
        epoch = round(state.epoch)
        if epoch % self.every and epoch != args.num_train_epochs:
            return
        minutes = CLOCK.minutes()
        score = exact_match(captions(model, self.tokenizer, self.items), [item.label for item in self.items]).value
        model.train()
        CLOCK.leave_out_since(minutes)
        line = {
            "phase": self.phase,
            "epoch": epoch,
            "cpu_minutes": round(minutes, 2),
            "dev_exact_match": round(score, 4),
        }
        with self.log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)


class TrainingClock:
    """CPU minutes of training, over interruptions."""

    def __init__(self):
        self.before = self.left_out = 0.0

    def go_on_from(self, log: Path) -> None:
        """Adds the minutes of the run that is resumed, as its log has them."""
        if log.exists():
            self.before = json.loads(log.read_text().splitlines()[-1])["cpu_minutes"]

    def minutes(self) -> float:
        return self.before + time.process_time() / 60 - self.left_out

    def leave_out_since(self, minutes: float) -> None:
        self.left_out += self.minutes() - minutes


CLOCK = TrainingClock()


def parameter_groups(model: nn.Module, rate: float, tower_rate: float, weight_decay: float) -> list[dict]:
    """The tower learns slower than the new parts; norms, biases and embeddings are not decayed."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = ("vision_tower" in name, parameter.ndim > 1 and "embed" not in name)
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "lr": tower_rate if tower else rate, "weight_decay": weight_decay if decayed else 0.0}
        for (tower, decayed), parameters in groups.items()
    ]


def train(model, dataset: Dataset, options, phase: str, epochs: int, rates: tuple[float, float], score) -> None:
    """One phase with Transformers' Trainer: bf16 autocast, a checkpoint an epoch, resumed if there is one."""
    output = options.output / phase
    output.mkdir(exist_ok=True)
    groups = parameter_groups(model, *rates, weight_decay=0.05)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(output),
            num_train_epochs=epochs,
            per_device_train_batch_size=64,
            lr_scheduler_type="cosine",
            warmup_steps=100,
            max_grad_norm=1.0,
            bf16=True,
            use_cpu=True,
            save_strategy="epoch",
            save_total_limit=1,
            logging_steps=100,
            report_to="none",
            seed=SEED,
            remove_unused_columns=False,
        ),
        data_collator=_as_it_is,
        train_dataset=dataset,
        optimizers=(torch.optim.AdamW(groups, betas=(0.9, 0.98)), None),
        callbacks=[score],
    )
    go_on(trainer, options.resume)


def _as_it_is(batch: Any) -> Any:
    """The datasets make whole batches."""
    return batch


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/mm-tiny-en"))
    parser.add_argument("--decoder-epochs", type=int, default=16, help="of the decoder alone")
    parser.add_argument("--epochs", type=int, default=12, help="of decoder and late stages")
    parser.add_argument("--views", type=int, default=4, help="views whose features are computed once")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    log = options.output / "log.jsonl"
    if options.resume:
        CLOCK.go_on_from(log)

    seen, dev = (
        [item for item in load_items(vendors) if split_of(item.concept) == "seen"]
        for vendors in (TRAIN_VENDORS, [DEV_VENDOR])
    )
    minilm = minilm_directory()
    tokenizer = pruned_tokenizer(minilm / "vocab.txt", [item.label for item in load_items([DEV_VENDOR])])
    model = build_model(tokenizer, minilm)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(seen)} pictures")

    drawings = Drawings(seen, caption_ids(seen, tokenizer), first_view=options.views)
    tower = cast(MMConvModel, model.model.vision_tower)
    features = Features(drawings, tower, options.views, options.output / "features.npy")
    score = DevScore(tokenizer, dev[::4], log, "decoder", every=4)
    train(model, features, options, "decoder", options.decoder_epochs, (1e-3, 0.0), score)
    freeze_early_stages(model)
    score = DevScore(tokenizer, dev[::4], log, "late stages", every=1)
    train(model, drawings, options, "late_stages", options.epochs, (3e-4, 3e-4), score)

    minutes = CLOCK.minutes()
    found = captions(model, tokenizer, dev)
    right = exact_match(found, [item.label for item in dev]).value
    print(f"Twemoji, {len(dev)} seen names: exact match {right:.4f} after {minutes:.1f} CPU minutes")
    model.save_pretrained(options.output / "model")
    tokenizer.save_pretrained(options.output / "model")


if __name__ == "__main__":
    main()
