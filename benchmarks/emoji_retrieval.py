"""Emoji by name and names by emoji, in a style that training never saw; and what a rerank by matching adds.

    python benchmarks/emoji_retrieval.py             # trains, or goes on where it stopped, then prints the table
    python benchmarks/emoji_retrieval.py --table     # only the table, from the log

One MMForImageTextRetrieval of one text stack: two layers of text, and two layers of cross-attention and MLP behind
them, which a text alone skips. First the contrastive loss alone; then the matching loss against mined negatives trains
the layers that join, and nothing that the embeddings read. Pictures are the stored features of the frozen
EfficientNet-Lite0 (ImageNet's weights), of six styles of the 1301 seen names; token embeddings start from MiniLM's.
These features are never negative, so what they share is larger than what tells them apart; the projector's bias starts
where it takes their mean away. Without that the matching loss stays at that of a coin for hundreds of steps.

Twemoji is scored: its drawings of seen names against all 1594 names (i2t), those names against the 1301 drawings
(t2i), and the same of 153 new names among themselves. R@k is the share of queries with fewer than k strictly better
candidates. The rerank sorts the best ten: by matching alone ("itm"), and by matching and similarity together
("itm+itc", the log-probability of the pair where negatives are mined by similarity).

Training is saved after every epoch and goes on from there; the log holds the rank of every query, so that intervals
(95 % bootstraps over queries, of differences query by query) come from the log alone. The features are stored beside
it: four views of each training drawing, three or four minutes more the first time. Epochs and views were chosen on
Noto's drawings, held out of a training on the other styles.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import experiments
import numpy as np
import torch
from experiments import score

from mm import MMConfig, MMForImageTextRetrieval
from mm.configuration.presets import EFFICIENTNET_LITE0
from mm.evaluation.captions import bootstrap_interval
from mm.recipes.drawings import caption_ids
from mm.recipes.emoji import DEV_VENDOR, load_items
from mm.recipes.emoji_captions import embeddings_from
from mm.recipes.emoji_features import EmojiFeatures, emoji_features
from mm.recipes.sources import minilm_directory
from mm.recipes.vocabulary import pruned_tokenizer

SEED, WIDTH, TOP, FEATURE_VIEWS = 0, 192, 10, 4
# (losses, epochs, batch, learning rate)
PHASES = (({"itc": 1.0}, 20, 256, 2e-3), ({"itc": 1.0, "itm": 1.0}, 8, 256, 1e-3))
WAYS = ("itc", "itm", "itm+itc")
# HOG + crop, the nearest training drawing: benchmarks/logs/emoji_baselines.txt
BASELINE = {"seen names, i2t": (0.559, 0.723), "seen names, t2i": (0.493, 0.688)}


class Data:
    """Features, names as ids, and who belongs to whom."""

    def __init__(self, folder: Path):
        self.features: EmojiFeatures = emoji_features(folder, FEATURE_VIEWS)
        self.mean = self.features.train_table[0, ::8].float().flatten(0, 1).mean(0)  # (Dv,)
        twemoji = load_items([DEV_VENDOR])
        self.minilm = minilm_directory()
        self.tokenizer = pruned_tokenizer(self.minilm / "vocab.txt", [item.label for item in twemoji])
        self.train_ids = caption_ids(self.features.train, self.tokenizer)
        self.name_ids = caption_ids(twemoji, self.tokenizer)  # of all 1594 names
        self.number = {item.concept: place for place, item in enumerate(twemoji)}


def text_inputs(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    ids = ids[:, : int((ids != 0).sum(1).max())]
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def build(data: Data, losses: dict[str, float]) -> MMForImageTextRetrieval:
    torch.manual_seed(SEED)
    text: dict[str, Any] = {
        "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 4, "num_attention_heads": 4,
        "cross_attention_layers": [2, 3], "cross_attention_placement": "own",
        "norm_position": "pre", "embedding_norm": False, "final_norm": "all", "hidden_dropout": 0.1,
        "layer_norm_eps": 1e-5, "vocab_size": len(data.tokenizer), "max_position_embeddings": 32, "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0, "is_causal": False, "pooler": "mean", "initializer_range": 0.05,
    }  # fmt: skip
    config = MMConfig(
        vision_config=EFFICIENTNET_LITE0, text_config=text, projector_type="linear_norm", projection_dim=256,
        pretraining_losses=losses,
    )  # fmt: skip
    model = MMForImageTextRetrieval(config)
    model.model.vision_tower.requires_grad_(False)
    linear = next(module for module in model.model.vision_projector.modules() if isinstance(module, torch.nn.Linear))
    linear.bias.data = -linear.weight.data @ data.mean
    if "itm" in losses:
        model.freeze_except("projector", "cross_attention", "itm_head.*")
    table = embeddings_from(data.minilm, data.tokenizer, WIDTH, std=0.05)
    model.model.language_model.embed_tokens.weight.data.copy_(table)
    return model


def trained_parameters(data: Data) -> int:
    """How many numbers any of the phases trains."""
    models = [build(data, losses) for losses, *_ in PHASES]
    named = {name: p.numel() for model in models for name, p in model.named_parameters() if p.requires_grad}
    return sum(named.values())


def train(data: Data, folder: Path) -> tuple[MMForImageTextRetrieval, float]:
    """Both phases, from the saved state on; the model and the CPU minutes."""
    saved = folder / "state.pt"
    state = torch.load(saved, weights_only=True) if saved.exists() else None
    minutes, model = 0.0, build(data, PHASES[0][0])
    for number, (losses, epochs, batch, rate) in enumerate(PHASES):
        if state and state["phase"] > number:
            continue
        before, model = model.state_dict(), build(data, losses)
        lacking = model.load_state_dict(before, strict=False)
        if set(lacking.missing_keys) - {"itm_head.weight", "itm_head.bias"} or lacking.unexpected_keys:
            raise RuntimeError(f"the phases' models differ: {lacking}")
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.05)
        steps = epochs * -(-len(data.train_ids) // batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
        first = 0
        if state and state["phase"] == number:
            for name, part in (("model", model), ("optimizer", optimizer), ("schedule", schedule)):
                part.load_state_dict(state[name])
            first, minutes = state["epoch"], state["minutes"]
        for epoch in range(first, epochs):
            start = time.process_time()
            loss = one_epoch(model, data, (number, epoch, batch), parameters, optimizer, schedule)
            minutes += (time.process_time() - start) / 60
            parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
            states = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**states, "phase": number, "epoch": epoch + 1, "minutes": minutes}, saved)
            print(f"{'+'.join(losses)}, epoch {epoch + 1} of {epochs}: loss {loss:.3f}, {minutes:.1f} min", flush=True)
    return model.eval(), minutes


def one_epoch(model, data: Data, numbers: tuple[int, int, int], parameters, optimizer, schedule) -> float:
    """All drawings once, one view of each; a function of the state before and of the phase and epoch."""
    phase, epoch, batch = numbers
    torch.manual_seed(1000 * phase + epoch)
    model.train()
    model.model.vision_tower.eval()
    loss = torch.zeros(())
    for chosen in torch.randperm(len(data.train_ids)).split(batch):
        features = data.features.train_table[epoch % FEATURE_VIEWS, chosen].float()
        loss = model(**text_inputs(data.train_ids[chosen]), visual_embeds=features).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return float(loss.detach())


@torch.no_grad()
def ranks(model: MMForImageTextRetrieval, data: Data, split: str) -> dict[str, dict[str, list[int]]]:
    """{direction: {way: for each query how many candidates are strictly better than its own}}."""
    items, table = data.features.dev_split(split)
    own = torch.tensor([data.number[item.concept] for item in items])  # the name of each drawing
    names = data.name_ids if split == "seen" else data.name_ids[own]
    truth = own if split == "seen" else torch.arange(len(items))
    context = model.encode_context(visual_embeds=table.float())
    images = torch.nn.functional.normalize(model.itc_head.of_context(context), dim=-1)
    texts = torch.cat([model.encode_text(**text_inputs(part)) for part in names.split(256)])
    sides = {
        "i2t": (images, texts, truth, names),
        "t2i": (texts[truth], images, torch.arange(len(items)), names[truth]),
    }
    found = {}
    for direction, (query, index, wanted, ids) in sides.items():
        scores = query @ index.T
        rank = (scores > scores.gather(1, wanted[:, None])).sum(1)
        found[direction] = {"itc": rank.tolist()}
        rerank = {**text_inputs(ids), "encoder_outputs": context, "query": "image" if direction == "i2t" else "text"}
        for order in WAYS[1:]:
            output = model.retrieve(query, index, TOP, rerank={**rerank, "order": order}, batch_size=256)
            hit = output.indices == wanted[:, None]
            place = torch.where(hit.any(1), hit.long().argmax(1), rank.clamp(min=TOP))
            found[direction][order] = place.tolist()
    return found


def table(line: dict[str, Any]) -> Iterator[str]:
    """R@1 and R@5 by embeddings and after each rerank, the paired differences, and the baseline."""
    heads = "".join(f"{way.upper():<9}{way.upper() + ' - ITC, paired':<38}" for way in WAYS[1:])
    yield f"{'':<22}{'':<6}{'HOG + crop':<12}{'ITC':<22}{heads}".rstrip()
    for split, directions in line["ranks"].items():
        for direction, found in directions.items():
            name = f"{split}, {direction}"
            for place, k in enumerate((1, 5)):
                old = f"{BASELINE[name][place]:.3f}" if name in BASELINE else ""
                itc = np.array(found["itc"]) < k
                row = f"{name:<22}R@{k:<4}{old:<12}{score(itc.astype(float)):<22}"
                for way in WAYS[1:]:
                    hits = (np.array(found[way]) < k).astype(float)
                    low, high = bootstrap_interval(hits - itc)
                    clear = "" if low > 0 or high < 0 else "  contains 0"
                    row += f"{hits.mean():<9.3f}{score(hits - itc, signed=True) + clear:<38}"
                yield row.rstrip()
    missed = [
        f"{name} R@5" for name, (_, wanted) in BASELINE.items()
        if np.mean(np.array(line["ranks"][name.split(", ")[0]][name.split(", ")[1]]["itc"]) < 5) <= wanted
    ]  # fmt: skip
    yield ""
    yield f"NOT above HOG + crop: {', '.join(missed)}" if missed else "both directions are above HOG + crop on R@5"


def main() -> None:
    parser = experiments.options(__doc__, "emoji_retrieval.json", "runs/emoji_features")
    parser.add_argument("--folder", type=Path, default=Path("runs/emoji_retrieval"), help="where training is saved")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if not asked.table:
        asked.folder.mkdir(parents=True, exist_ok=True)
        data = Data(asked.features)
        model, minutes = train(data, asked.folder)
        splits = {"seen names": "seen", "new names": "unseen_dev"}
        line = {
            "cpu_minutes": round(minutes, 2), "trained": trained_parameters(data),
            "ranks": {name: ranks(model, data, split) for name, split in splits.items()},
        }  # fmt: skip
        asked.log.write_text(json.dumps(line) + "\n", encoding="utf-8")
    line = json.loads(asked.log.read_text(encoding="utf-8"))
    epochs = " + ".join(str(epochs) for _, epochs, _, _ in PHASES)
    told = f"{line['trained']:,} parameters trained, {epochs} epochs, {line['cpu_minutes']:.1f} CPU minutes, one seed"
    experiments.say(told, table(line))


if __name__ == "__main__":
    main()
