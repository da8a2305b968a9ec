"""Masked words of emoji names, filled in with the drawing in view and without it.

    python benchmarks/masked_emoji.py             # trains what the log lacks, then prints the table
    python benchmarks/masked_emoji.py --table     # only the table, from the log

Both systems are the same MMForMaskedLM with the same batches; one gets no picture. Of a name's word pieces each is
masked with probability 0.5, at least one. Pictures are the stored features of the frozen EfficientNet-Lite0 (with
ImageNet's weights), of six styles of the 1301 seen names; token embeddings start from MiniLM's. Scored are Twemoji's
drawings, a style that training never saw, of seen names and of 153 new ones: the share of a name's masked pieces that
come out right, under masks that are a function of the name. A run that is in the log is not trained again. Intervals
are 95 % bootstraps over drawings.
"""

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import experiments
import numpy as np
import torch
from experiments import score

from mm import MMConfig, MMForMaskedLM
from mm.configuration.presets import EFFICIENTNET_LITE0
from mm.evaluation.captions import bootstrap_interval
from mm.recipes.drawings import caption_ids
from mm.recipes.emoji import DEV_VENDOR, EmojiItem, load_items
from mm.recipes.emoji_captions import embeddings_from
from mm.recipes.emoji_features import VIEWS, emoji_features
from mm.recipes.sources import minilm_directory
from mm.recipes.vocabulary import pruned_tokenizer

SYSTEMS = {"text alone": False, "text and picture": True}
SPLITS = {"seen names": "seen", "new names": "unseen_dev"}
SEEDS, EPOCHS, BATCH, RATE, WIDTH, MASKED = (0,), 8, 128, 1e-3, 192, 0.5
SPECIAL = 3  # [PAD], [CLS] and [SEP] are never masked


class Data:
    """Features, and names as ids; the mask token comes after the tokenizer's vocabulary."""

    def __init__(self, folder: Path):
        self.features = emoji_features(folder)
        self.minilm = minilm_directory()
        labels = [item.label for item in load_items([DEV_VENDOR])]
        self.tokenizer = pruned_tokenizer(self.minilm / "vocab.txt", labels)
        self.mask = len(self.tokenizer)
        self.train_ids = caption_ids(self.features.train, self.tokenizer)

    def batch(self, ids: torch.Tensor, items: list[EmojiItem], *seed: int) -> dict[str, torch.Tensor]:
        """Names (n, T) with masked pieces, and these as labels: a function of the item and the seed."""
        ids = ids[:, : int((ids != 0).sum(1).max())]
        hidden = torch.zeros_like(ids, dtype=torch.bool)
        for row, name, item in zip(hidden, ids.tolist(), items, strict=True):
            draw = random.Random(f"{item.concept} {seed}")
            places = [place for place, piece in enumerate(name) if piece >= SPECIAL]
            chosen = [place for place in places if draw.random() < MASKED] or [draw.choice(places)]
            row[chosen] = True
        labels = ids.masked_fill(~hidden, -100)
        ids = ids.masked_fill(hidden, self.mask)
        return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}


def build(data: Data, seed: int) -> MMForMaskedLM:
    torch.manual_seed(seed)
    text: dict[str, Any] = {
        "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4,
        "norm_position": "pre", "embedding_norm": False, "final_norm": "all", "hidden_dropout": 0.1,
        "layer_norm_eps": 1e-5, "vocab_size": len(data.tokenizer) + 1, "max_position_embeddings": 32,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "is_causal": False,
    }  # fmt: skip
    model = MMForMaskedLM(MMConfig(vision_config=EFFICIENTNET_LITE0, text_config=text, projector_type="linear_norm"))
    model.model.vision_tower.requires_grad_(False)
    table = embeddings_from(data.minilm, data.tokenizer, WIDTH, std=0.05)
    model.model.language_model.embed_tokens.weight.data[: len(table)] = table
    return model


def train(system: str, data: Data, seed: int) -> MMForMaskedLM:
    model = build(data, seed)

    def loss(epoch: int, chosen: torch.Tensor) -> torch.Tensor:
        items = [data.features.train[i] for i in chosen.tolist()]
        batch = data.batch(data.train_ids[chosen], items, seed, epoch, int(chosen[0]))
        if SYSTEMS[system]:
            batch["visual_embeds"] = data.features.train_table[epoch % VIEWS, chosen].float()
        return model(**batch).loss

    return experiments.fit(model, loss, len(data.train_ids), EPOCHS, BATCH, RATE, seed)


@torch.no_grad()
def shares(system: str, model: MMForMaskedLM, data: Data, split: str) -> list[float]:
    """For each drawing the share of the masked pieces of its name that come out right."""
    items, table = data.features.dev_split(split)
    ids, found = caption_ids(items, data.tokenizer), []
    for chosen in torch.arange(len(items)).split(BATCH):
        batch = data.batch(ids[chosen], [items[i] for i in chosen.tolist()], -1)
        labels = batch.pop("labels")
        if SYSTEMS[system]:
            batch["visual_embeds"] = table[chosen].float()
        right = (model(**batch).logits.argmax(-1) == labels).sum(1) / (labels != -100).sum(1)
        found += [round(share, 4) for share in right.tolist()]
    return found


def table(lines: list[dict[str, Any]]) -> Iterator[str]:
    """The share of masked pieces that come out right, and the paired difference that the picture makes."""
    minutes = ", ".join(f"{line['system']} {line['cpu_minutes']:.1f}" for line in lines)
    yield f"CPU minutes: {minutes}\n"
    yield f"{'':<14}{'n':>6}  {'text alone':<24}{'text and picture':<24}difference, paired"
    for split in SPLITS:
        alone, seen = (
            np.mean([line["shares"][split] for line in lines if line["system"] == system], axis=0)
            for system in SYSTEMS
        )
        gain = seen - alone
        clear = "" if bootstrap_interval(gain)[0] > 0 else "  contains 0 or is below it"
        yield f"{split:<14}{len(gain):>6}  {score(alone):<24}{score(seen):<24}{score(gain, signed=True)}{clear}"


def main(arguments: list[str] | None = None) -> int:
    asked = experiments.options(__doc__, "masked_emoji.jsonl", "runs/fusion_emoji").parse_args(arguments)
    torch.set_num_threads(1)
    if not asked.table:
        data = Data(asked.features)
        experiments.run(
            asked.log, SYSTEMS, SEEDS, lambda system, seed: train(system, data, seed),
            lambda system, model: {
                "shares": {name: shares(system, model, data, split) for name, split in SPLITS.items()}
            },
        )  # fmt: skip
    told = f"pieces masked with probability {MASKED}; {len(SEEDS)} seed of {EPOCHS} epochs"
    experiments.say(told, table(experiments.read(asked.log)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
