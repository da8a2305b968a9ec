"""Which fusion joins a picture and a noisy text best: the group of an emoji from a drawing and some of its tags.

    python benchmarks/fusion_emoji.py                 # trains what the log lacks, then prints the table
    python benchmarks/fusion_emoji.py --table         # only the table, from the log

The nine groups (faces, people, animals, ...) are emojibase's. The text is a share of the emoji's search words, some of
them exchanged for words of any other emoji, so that the text or the picture without the other does not give away the
group. Training sees six styles of the names called seen; Twemoji, a style that it never sees, is scored: on the seen
names, and on new ones. All systems read the same features of the frozen EfficientNet-Lite0 (ImageNet's weights),
computed once, and have the same text stack and settings. A run (a system and a seed) that is in the log is not trained
again, so an interrupted benchmark goes on where it stopped. Intervals are 95 % bootstraps over drawings.
"""

import json
import random
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import experiments
import numpy as np
import torch
from experiments import mean_hits, score

from mm import MMConfig, MMForSequenceClassification
from mm.configuration.presets import EFFICIENTNET_LITE0
from mm.conversion_scripts.efficientnet_lite import load_efficientnet_lite0
from mm.recipes.drawings import SIZE, Drawings, Features, normalised
from mm.recipes.emoji import DEV_VENDOR, TRAIN_VENDORS, EmojiItem, concept_key, load_items, pictures, split_of
from mm.recipes.sources import efficientnet_lite0_file, fetch, find_source

FUSIONS = ("cross_attention", "co_attention", "merged", "concat", "sum", "gated", "decision")
# name -> (fusion, whether it sees the picture, the text)
SYSTEMS = {
    "text alone": ("concat", False, True),
    "picture alone, mean": ("concat", True, False),
    "picture alone, attended": ("cross_attention", True, False),
    **{fusion: (fusion, True, True) for fusion in FUSIONS},
}
SPLITS = {"seen names": ("seen", 1301), "new names": ("unseen_dev", 153)}  # scored in this order
SEEDS, EPOCHS, BATCH, VIEWS, RATE = (0, 1), 10, 64, 2, 5e-4
KEPT, EXCHANGED = 0.3, 0.4  # a tag is kept with this share, and a kept one is another emoji's with that
PAD, BOS, UNKNOWN = 0, 1, 2


def groups() -> tuple[dict[str, int], list[str]]:
    """Concept -> class, and the names of the classes."""
    with tarfile.open(fetch(find_source("emojibase-data"))) as archive:
        entries, meta = (json.load(archive.extractfile(f"package/{name}"))  # pyright: ignore[reportArgumentType]
                         for name in ("en/data.json", "meta/groups.json"))  # fmt: skip
    found = {concept_key(entry["hexcode"]): entry["group"] for entry in entries if "group" in entry}
    used = sorted({found[item.concept] for item in load_items([DEV_VENDOR])})
    return {key: used.index(group) for key, group in found.items() if group in used}, [
        meta["groups"][str(group)] for group in used
    ]


class Words:
    """The words of the training tags as ids, and noisy texts of them."""

    def __init__(self, items: list[EmojiItem]):
        self.pool = sorted({tag for item in items for tag in item.tags})  # what a tag is exchanged for
        words = sorted({word for tag in self.pool for word in tag.split()})
        self.ids = {word: number for number, word in enumerate(words, start=UNKNOWN + 1)}

    def noisy(self, item: EmojiItem, *seed: int) -> list[int]:
        """bos and the words of the tags that are left: a function of the item and the seed."""
        draw = random.Random(f"{item.vendor} {item.concept} {seed}")
        tags = [tag for tag in item.tags if draw.random() < KEPT]
        tags = [draw.choice(self.pool) if draw.random() < EXCHANGED else tag for tag in tags]
        return [BOS, *(self.ids.get(word, UNKNOWN) for tag in tags for word in tag.split())]

    def batch(self, items: list[EmojiItem], *seed: int) -> dict[str, torch.Tensor]:
        rows = [self.noisy(item, *seed) for item in items]
        ids = torch.full((len(rows), max(map(len, rows))), PAD)
        for line, row in zip(ids, rows, strict=True):
            line[: len(row)] = torch.tensor(row)
        return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


class Data:
    """Drawings by their features, their tags and their groups."""

    def __init__(self, folder: Path):
        self.classes, self.names = groups()
        self.train = [item for item in load_items(TRAIN_VENDORS) if split_of(item.concept) == "seen"]
        twemoji = load_items([DEV_VENDOR])
        self.dev = [item for name, _ in SPLITS.values() for item in twemoji if split_of(item.concept) == name]
        if len(self.dev) != sum(number for _, number in SPLITS.values()):
            raise ValueError(f"the dev set has {len(self.dev)} drawings; expected {SPLITS}")
        self.words = Words(self.train)
        tower = load_efficientnet_lite0(efficientnet_lite0_file(), SIZE).eval()
        drawings = Drawings(self.train, torch.zeros(len(self.train), 1), first_view=VIEWS)
        self.train_features = Features(drawings, tower, VIEWS, folder / "train.npy").table
        self.dev_features = self._dev_features(tower, folder / "dev.npy")

    @torch.no_grad()
    def _dev_features(self, tower, file: Path) -> torch.Tensor:
        if not file.exists():
            pixels = torch.from_numpy(pictures(self.dev, SIZE, crop=True)).permute(0, 3, 1, 2)
            parts = [tower(pixel_values=normalised(part.float() / 255)).last_hidden_state for part in pixels.split(32)]
            np.save(file, torch.cat(parts).half().numpy())
        return torch.from_numpy(np.load(file))

    def labels(self, items: list[EmojiItem]) -> torch.Tensor:
        return torch.tensor([self.classes[item.concept] for item in items])


def build(fusion: str, vocabulary: int, classes: int, seed: int) -> MMForSequenceClassification:
    torch.manual_seed(seed)
    text: dict[str, Any] = {
        "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
        "norm_position": "pre", "embedding_norm": False, "final_norm": "all", "hidden_dropout": 0.1,
        "vocab_size": vocabulary, "max_position_embeddings": 64, "bos_token_id": BOS, "eos_token_id": None,
        "pad_token_id": PAD, "is_causal": False, "pooler": "mean",
    }  # fmt: skip
    mask = {"fusion_mask": "bidirectional"} if fusion == "merged" else {}
    config = MMConfig(
        vision_config=EFFICIENTNET_LITE0, text_config=text, fusion_type=fusion, projector_type="linear_norm",
        num_labels=classes, classifier_dropout=0.1, **mask,
    )  # fmt: skip
    model = MMForSequenceClassification(config)
    model.model.vision_tower.requires_grad_(False)
    return model


def inputs(system: str, features: torch.Tensor, text: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    _, sees_picture, sees_text = SYSTEMS[system]
    return {**({"visual_embeds": features.float()} if sees_picture else {}), **(text if sees_text else {})}


def train(system: str, data: Data, seed: int) -> MMForSequenceClassification:
    model = build(SYSTEMS[system][0], max(data.words.ids.values()) + 1, len(data.names), seed)
    labels = data.labels(data.train)

    def loss(epoch: int, chosen: torch.Tensor) -> torch.Tensor:
        text = data.words.batch([data.train[i] for i in chosen.tolist()], seed, epoch)
        features = data.train_features[epoch % VIEWS, chosen]
        return model(**inputs(system, features, text), labels=labels[chosen]).loss

    return experiments.fit(model, loss, len(labels), EPOCHS, BATCH, RATE, seed)


@torch.no_grad()
def right(system: str, model: MMForSequenceClassification, data: Data) -> str:
    """A 1 for each drawing of the dev set that is put into its group, else a 0; the noise is the same for all."""
    found = []
    for start in range(0, len(data.dev), BATCH):
        items = data.dev[start : start + BATCH]
        batch = inputs(system, data.dev_features[start : start + BATCH], data.words.batch(items, -1))
        found.append(model(**batch).logits.argmax(-1))
    return experiments.marks(torch.cat(found) == data.labels(data.dev))


def scores(system: str, model: MMForSequenceClassification, data: Data) -> dict[str, Any]:
    found: dict[str, Any] = {"right": right(system, model, data)}
    if SYSTEMS[system][0] == "decision":
        found["weights"] = [round(float(weight), 3) for weight in model.model.fusion.weights(torch.zeros(1)).detach()]
    return found


def table(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Accuracy, the mean over the seeds of each drawing; the difference to the better of only text and only
    picture."""
    hits = {name: mean_hits(lines, name) for name in SYSTEMS}
    minutes = {name: np.mean([line["cpu_minutes"] for line in lines if line["system"] == name]) for name in SYSTEMS}
    end = 0
    for split, (_, number) in SPLITS.items():
        start, end = end, end + number
        scores = {name: hits[name][start:end] for name in SYSTEMS}
        alone = max((name for name in SYSTEMS if "alone" in name), key=lambda name: scores[name].mean())
        yield f"{split}: {number} drawings"
        yield f"  {'':<26}{'accuracy, 95 %':<24}{'minus ' + alone:<34}CPU min"
        for name in SYSTEMS:
            gain = "" if "alone" in name else score(scores[name] - scores[alone], signed=True)
            yield f"  {name:<26}{score(scores[name]):<24}{gain:<34}{minutes[name]:.1f}"
        best, *others = sorted(FUSIONS, key=lambda name: -scores[name].mean())
        for other in (others[0], others[-1]):
            yield f"  {best} minus {other}: {score(scores[best] - scores[other], signed=True)}"


def main(arguments: list[str] | None = None) -> int:
    asked = experiments.options(__doc__, "fusion_emoji.jsonl", "runs/fusion_emoji").parse_args(arguments)
    torch.set_num_threads(1)
    if not asked.table:
        asked.features.mkdir(parents=True, exist_ok=True)
        data = Data(asked.features)
        experiments.run(
            asked.log, SYSTEMS, SEEDS, lambda system, seed: train(system, data, seed),
            lambda system, model: scores(system, model, data),
        )  # fmt: skip
    told = f"9 groups; tags kept {KEPT}, exchanged {EXCHANGED}; {len(SEEDS)} seeds of {EPOCHS} epochs"
    experiments.say(told, table(experiments.read(asked.log)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
