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

# Which parts a model has depends on its config, which pyright cannot follow; num_labels is Transformers' own.

import argparse
import json
import platform
import random
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from mm import MMConfig, MMForSequenceClassification
from mm.configuration.presets import EFFICIENTNET_LITE0
from mm.conversion_scripts.efficientnet_lite import load_efficientnet_lite0
from mm.evaluation.captions import bootstrap_interval
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
    model = build(SYSTEMS[system][0], max(data.words.ids.values()) + 1, len(data.names), seed).train()
    model.model.vision_tower.eval()
    groups = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.05)
    steps = EPOCHS * -(-len(data.train) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    labels = data.labels(data.train)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(100 * seed + epoch))
        for chosen in order.split(BATCH):
            text = data.words.batch([data.train[i] for i in chosen.tolist()], seed, epoch)
            features = data.train_features[epoch % VIEWS, chosen]
            loss = model(**inputs(system, features, text), labels=labels[chosen]).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(groups, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    return model.eval()


@torch.no_grad()
def right(system: str, model: MMForSequenceClassification, data: Data) -> str:
    """A 1 for each drawing of the dev set that is put into its group, else a 0; the noise is the same for all."""
    found = []
    for start in range(0, len(data.dev), BATCH):
        items = data.dev[start : start + BATCH]
        batch = inputs(system, data.dev_features[start : start + BATCH], data.words.batch(items, -1))
        found.append(model(**batch).logits.argmax(-1))
    return "".join(str(int(hit)) for hit in torch.cat(found) == data.labels(data.dev))


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
                "right": right(system, model, data),
            }  # fmt: skip
            if SYSTEMS[system][0] == "decision":
                line["weights"] = [round(float(w), 3) for w in model.model.fusion.weights(torch.zeros(1)).detach()]
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print({**line, "right": round(line["right"].count("1") / len(line["right"]), 4)}, flush=True)


def read(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


def score(value: np.ndarray, signed: bool = False) -> str:
    low, high = bootstrap_interval(value)
    form = "+.3f" if signed else ".3f"
    return f"{value.mean():{form}} [{low:{form}}, {high:{form}}]"


def table(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Accuracy, the mean over the seeds of each drawing; the difference to the better of only text and only
    picture."""
    hits = {name: np.mean([[int(mark) for mark in line["right"]] for line in lines if line["system"] == name], axis=0)
            for name in SYSTEMS}  # fmt: skip
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/fusion_emoji"), help="where the features are kept")
    parser.add_argument("--log", type=Path, default=Path("benchmarks/logs/fusion_emoji.jsonl"))
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.table:
        options.folder.mkdir(parents=True, exist_ok=True)
        run(Data(options.folder), options.log)
    print(
        f"9 groups; tags kept {KEPT}, exchanged {EXCHANGED}; {len(SEEDS)} seeds of {EPOCHS} epochs\n"
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        "one thread\n"
    )
    print(*table(read(options.log)), sep="\n")


if __name__ == "__main__":
    main()
