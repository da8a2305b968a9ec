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

# Which parts a config has depends on its values, which pyright cannot follow.

import argparse
import json
import platform
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

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
    model = build(data, seed).train()
    model.model.vision_tower.eval()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.05)
    steps = EPOCHS * -(-len(data.train_ids) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(data.train_ids), generator=torch.Generator().manual_seed(100 * seed + epoch))
        for chosen in order.split(BATCH):
            items = [data.features.train[i] for i in chosen.tolist()]
            batch = data.batch(data.train_ids[chosen], items, seed, epoch, int(chosen[0]))
            if SYSTEMS[system]:
                batch["visual_embeds"] = data.features.train_table[epoch % VIEWS, chosen].float()
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        print(f"{system}, seed {seed}, epoch {epoch + 1} of {EPOCHS}: loss {loss.item():.3f}", flush=True)
    return model.eval()


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


def run(data: Data, log: Path) -> None:
    """Every system and seed that the log lacks."""
    done = {(line["system"], line["seed"]) for line in read(log)}
    for seed in SEEDS:
        for system in SYSTEMS:
            if (system, seed) in done:
                continue
            start = time.process_time()
            model = train(system, data, seed)
            line = {
                "system": system, "seed": seed, "cpu_minutes": round((time.process_time() - start) / 60, 2),
                "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
                "shares": {name: shares(system, model, data, split) for name, split in SPLITS.items()},
            }  # fmt: skip
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def read(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


def score(values: np.ndarray, signed: bool = False) -> str:
    low, high = bootstrap_interval(values)
    form = "+.3f" if signed else ".3f"
    return f"{values.mean():{form}} [{low:{form}}, {high:{form}}]"


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, default=Path("runs/fusion_emoji"), help="where the features are kept")
    parser.add_argument("--log", type=Path, default=Path("benchmarks/logs/masked_emoji.jsonl"))
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.table:
        run(Data(options.features), options.log)
    print(
        f"pieces masked with probability {MASKED}; {len(SEEDS)} seed of {EPOCHS} epochs\n"
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        "one thread"
    )
    print(*table(read(options.log)), sep="\n")


if __name__ == "__main__":
    main()
