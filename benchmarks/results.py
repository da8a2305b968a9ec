"""docs/results.md: how well the shipped model does what it was trained for, beside baselines, with their mistakes.

    make reproduce-results                                       # measures them (ten minutes on one core)
    python benchmarks/results.py --model runs/mm-tiny/model      # another one
    python benchmarks/results.py --test                          # adds OpenMoji: once for the weights that ship
    python benchmarks/results.py --spoken                        # only the spoken names again
    python benchmarks/results.py --page                          # only the page, from benchmarks/logs/results.json

Names of Twemoji's drawings, a style that training never saw, in every language the model has a token for; names for
pictures and pictures for names; easy-VQA's test questions; by group of emoji, and by the sex that a name tells. What
a model was not trained for is left out; the sheets show the last one. Beside it stands who copies from the most
similar of the training drawings (gradient histograms with soft bins of the cropped drawing, emoji_baselines.py), or
knows the question alone. Intervals are 95 % bootstraps, of differences item by item.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from emoji_baselines import SIZE, label_scores, soft_hog_features
from page import figure
from PIL import Image
from spoken_results import counted, interval, shown, spoken, spoken_lines
from transformers import AutoProcessor

from mm.cli.caption import PACKAGED_MODEL
from mm.configuration.mm import MMConfig
from mm.evaluation.captions import exact_match
from mm.modeling_mm.tasks.generation import MMForConditionalGeneration
from mm.modeling_mm.tasks.retrieval import MMForImageTextRetrieval
from mm.recipes.calibrated import read
from mm.recipes.easy_vqa import load_pictures_and_questions, load_questions, question_only
from mm.recipes.emoji import (
    DEV_VENDOR,
    TEST_VENDOR,
    TRAIN_VENDORS,
    EmojiItem,
    concept_key,
    emojibase,
    load_items,
    pictures,
    render,
    split_of,
)
from mm.recipes.languages import LANGUAGES, names_by_language, token_of

ROOT = Path(__file__).resolve().parents[1]
LOG = ROOT / "benchmarks" / "logs" / "results.json"
SPOKEN = ROOT / "checkpoints" / "mm-tiny-spoken"
CURVES = ("mm_tiny_training.jsonl", "mm_tiny_languages_training.jsonl")
BATCH = 64
ENGLISH = {"en": "English", "de": "German", "fr": "French", "es": "Spanish", "ru": "Russian", "zh": "Chinese"}
GROUPS = {
    0: "smileys", 1: "people", 3: "animals, plants", 4: "food", 5: "places, travel", 6: "activities", 7: "objects",
    8: "symbols", 9: "flags",
}  # fmt: skip
SHOWN = 40  # drawings of a sheet
HOG = "the most similar drawing"
TEST_STYLE = "OpenMoji, "


# -- what the model says ----------------------------------------------------------------------------------------------


class Shipped:
    """A captioner with its processor, and what else its checkpoint was trained for."""

    def __init__(self, folder: Path):
        config = MMConfig.from_pretrained(folder)
        self.processor = AutoProcessor.from_pretrained(folder)
        self.tokenizer = self.processor.tokenizer
        self.writer = MMForConditionalGeneration.from_pretrained(folder).eval()
        finds = "MMForPreTraining" in (config.architectures or ()) and "itc" in config.pretraining_losses
        self.finder = MMForImageTextRetrieval.from_pretrained(folder).eval() if finds else None
        known = self.tokenizer.get_vocab()
        self.languages = [one for one in LANGUAGES if one == "en" or token_of(one) in known]
        self.answers = len(self.languages) > 1  # the recipe of the languages asks questions, too

    def prompt(self, text: str) -> torch.Tensor:
        """int64 (1, T): what a text begins with, without the token that ends one."""
        return torch.tensor([self.tokenizer(text).input_ids[:-1]])

    @torch.no_grad()
    def written(self, pixels: torch.Tensor, prompt: str, tokens: int = 24) -> list[str]:
        """The greedy continuation of a prompt for each picture."""
        start, found = self.prompt(prompt), []
        for part in pixels.split(BATCH):
            rows = start.expand(len(part), -1)
            ids = self.writer.generate(
                pixel_values=part, input_ids=rows, max_new_tokens=tokens, num_beams=1, do_sample=False
            )
            found += self.tokenizer.batch_decode(ids[:, start.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in found]

    def pixels(self, drawings: Sequence[Image.Image]) -> torch.Tensor:
        parts = [drawings[start : start + BATCH] for start in range(0, len(drawings), BATCH)]
        return torch.cat([self.processor(images=list(part), return_tensors="pt").pixel_values for part in parts])

    @torch.no_grad()
    def likeness(self, pixels: torch.Tensor, names: list[str]) -> torch.Tensor:
        """float (pictures, names)."""
        assert self.finder is not None
        seen = torch.cat([self.finder.encode_image(pixel_values=part) for part in pixels.split(BATCH)])
        told = []
        for start in range(0, len(names), BATCH):
            rows = self.tokenizer(names[start : start + BATCH], padding=True, return_tensors="pt")
            told.append(self.finder.encode_text(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]))
        return seen @ torch.cat(told).T


# -- what is counted --------------------------------------------------------------------------------------------------


def ranks(likeness: np.ndarray, own: np.ndarray) -> dict[str, np.ndarray]:
    """How many candidates are better than the right one: names (n,) for pictures, and pictures for names."""
    told = likeness[np.arange(len(own)), own]
    by_name = likeness[:, own]
    return {
        "names for pictures": (likeness > told[:, None]).sum(1),
        "pictures for names": (by_name > told[None]).sum(0),
    }


def nearest(drawn: list[EmojiItem], order: dict[str, int]) -> np.ndarray:
    """float (drawings, names): how near the most similar training drawing of each name is."""
    known = [item for item in load_items(TRAIN_VENDORS) if split_of(item.concept) == "seen"]
    of = [soft_hog_features(pictures(items, SIZE, True)) for items in (drawn, known)]
    return label_scores(*of, np.array([order[item.concept] for item in known]), len(order))


def answered(model: Shipped) -> tuple[np.ndarray, np.ndarray]:
    """Whether each test question of easy-VQA is answered rightly, by the model and by its question alone."""
    raw, asked = load_pictures_and_questions("test")
    pixels = model.pixels([Image.fromarray(one) for one in raw])
    places: dict[str, list[tuple[int, str]]] = {}  # by question, so that the rows of a batch are of one length
    for place, pairs in enumerate(asked):
        for question, answer in pairs:
            places.setdefault(question, []).append((place, answer))
    right = []
    for question, pairs in places.items():
        texts = model.written(pixels[[place for place, _ in pairs]], question, tokens=4)
        right += [text == answer for text, (_, answer) in zip(texts, pairs, strict=True)]
    return np.array(right, float), question_only(load_questions("train"), load_questions("test"))


def by_group(items: list[EmojiItem], texts: list[str], right: np.ndarray) -> list[dict[str, Any]]:
    """The share of right names of each group, and of names that tell a sex how many were given the other."""
    groups = {concept_key(entry["hexcode"]): GROUPS.get(entry["group"], "") for entry in emojibase("en")}
    found = []
    for group in GROUPS.values():
        own = np.array([groups[item.concept] == group for item in items])
        if own.any():
            found.append({"group": group, "number": int(own.sum()), "right": interval(right[own])})
    for sex, other in (("woman", "man"), ("man", "woman"), ("person", None)):
        own = [sex in item.label.split() for item in items]
        wrongly = [
            other in text.split() and sex not in text.split() for text, one in zip(texts, own, strict=True) if one
        ]
        row = {"group": f'names with "{sex}"', "number": sum(own), "right": interval(right[np.array(own)])}
        found.append(row | ({"other": [other, round(float(np.mean(wrongly)), 4)]} if other else {}))
    return found


def measured(folder: Path, test: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the log holds of a model, and what the sheets show; of the test style its rows alone."""
    model = Shipped(folder)
    drawn = load_items([TEST_VENDOR if test else DEV_VENDOR])
    style = TEST_STYLE if test else ""
    order = {item.concept: place for place, item in enumerate(drawn)}
    names = names_by_language(order)
    rows, sheets, groups = [], {}, []
    for split, kind in (("seen", "known"), ("unseen_test" if test else "unseen_dev", "new")):
        items = [item for item in drawn if split_of(item.concept) == split]
        drawings = [render(item.svg, 256) for item in items]
        pixels, near = model.pixels(drawings), nearest(items, order)
        copied = [drawn[place].concept for place in near.argmax(1)]
        for language in model.languages[: 1 if test else None]:
            told = [names[language][item.concept] for item in items]
            texts = model.written(pixels, token_of(language))
            right = exact_match(texts, told).per_item
            beside = exact_match([names[language][one] for one in copied], told).per_item
            rows.append(
                counted(f"{style}{kind} names, {ENGLISH[language]}", right, beside if kind == "known" else None, HOG)
            )
            print(rows[-1], flush=True)
            if kind == "known" and language == "en":
                groups = by_group(items, texts, right)
                _, chances = read(model.writer, model.processor, drawings)
                sheets = {"items": items, "drawings": drawings, "right": right > 0, "en": texts, "chances": chances}
            elif kind == "known":
                sheets[language] = texts
        if model.finder is not None:
            among = drawn if kind == "known" else items  # new names are looked for among themselves
            own = np.array([among.index(item) for item in items])
            found = ranks(model.likeness(pixels, [item.label for item in among]).numpy(), own)
            copied_of = ranks(near, own) if kind == "known" else {}
            for way, most in ((way, most) for way in found for most in (1, 5)):
                hit, copy = ((of[way] < most).astype(float) if of else None for of in (found, copied_of))
                rows.append(counted(f"{style}{kind} {way}, R@{most}", hit, copy, HOG))
    if model.answers and not test:
        rows.append(counted("easy-VQA, test questions", *answered(model), "the question alone"))
    return {"results": rows, "groups": groups}, {"model": model, **sheets}


def weights_of(folder: Path) -> str:
    """SHA-256 of a model's file."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def of_test_style(before: dict[str, Any], weights: str) -> list[dict[str, Any]]:
    """The rows of OpenMoji that an earlier log has of these weights: they are measured once."""
    same = before.get("weights") == weights
    return [row for row in before.get("results", ()) if same and row["what"].startswith(TEST_STYLE)]


# -- the page ---------------------------------------------------------------------------------------------------------


def page(log: dict[str, Any], drawn: Sequence[str]) -> str:
    machine = log["machine"]
    lines = [
        "# Results of the shipped model", "",
        "See how good it is at what it was trained for, where it fails, and what it looks at. "
        "`make reproduce-results` makes this", "page (`benchmarks/results.py`). Twemoji is the development style: its "
        "drawings were never trained on, but settings were chosen by them.", "",
        f"{machine['processor']}; Python {machine['Python']}, torch {machine['torch']}, transformers "
        f"{machine['transformers']}. Intervals are 95 % bootstraps, of the difference item by item.", "",
        "| what | number | model | right | beside | right | difference |", "|---|---:|---|---|---|---|---|",
    ]  # fmt: skip
    for what, own in by_key(log["models"], "results", "what").items():
        for name, row in own.items():
            rest = ["", "", ""]
            if "beside" in row:
                rest = [row["beside"], shown(row["baseline"]), shown(row["difference"], "+")]
            lines.append(f"| {' | '.join([what, str(row['number']), name, shown(row['right']), *rest])} |")
    lines += [
        "", "*The most similar drawing*: the name of the nearest of the 6476 training drawings by gradient histograms "
        "with soft bins of the cropped drawing. Known names are looked for among all 1594, "
        "new ones among the new ones.",
        "OpenMoji, line art, is the test style: opened once for each model that is shipped, after all was fixed.",
        *spoken_lines(log["models"].get(SPOKEN.name, {}).get("spoken", [])),
        "", "## By group", "",
        "Known names in English. Skin is yellow in all drawings: nothing is measured of tones of skin.",
        "", "| group | number | model | right | given the other sex |", "|---|---:|---|---|---|",
    ]  # fmt: skip
    for group, own in by_key(log["models"], "groups", "group").items():
        for name, row in own.items():
            other = f'{row["other"][1]:.3f} "{row["other"][0]}"' if "other" in row else ""
            lines.append(f"| {group} | {row['number']} | {name} | {shown(row['right'])} | {other} |")
    titles = {
        "curve": ("While it learned", "Exact match on every fourth drawing of Twemoji, over CPU minutes on one core."),
        "names": ("Drawings and their names", "Drawn by lot from Twemoji's known names; red: not the English name."),
        "mistakes": ("Its surest mistakes", "Of what it names wrongly what it is surest of; below: the name."),
        "maps": (
            "What a word was read from",
            "The weights of the cross-attention; which methods are faithful is in [explaining](explaining.md).",
        ),
    }
    for name in drawn:
        title, text = titles[name]
        lines += ["", f"## {title}", "", text, "", f"![{title}](pictures/results-{name}.png)"]
    return "\n".join(lines) + "\n"


def by_key(models: dict[str, Any], table: str, key: str) -> dict[str, dict[str, Any]]:
    """{what: {model: row}}, in the order of the model with most rows."""
    order = max((found.get(table, ()) for found in models.values()), key=len)
    return {
        row[key]: {name: one for name, found in models.items() for one in found.get(table, ()) if one[key] == row[key]}
        for row in order
    }


def curve(logs: Path) -> Any:
    """Exact match over CPU minutes, a line for each language, one run after the other."""
    drawn, axes = figure(8, 3.2)
    points: dict[str, list[tuple[float, float]]] = {}
    before = 0.0
    for name in CURVES:
        lines = [json.loads(line) for line in (logs / name).read_text(encoding="utf-8").splitlines()]
        for line in lines:
            for key, value in line.items():
                if key.startswith("dev_exact_match"):
                    language = key.removeprefix("dev_exact_match").strip("_") or "en"
                    points.setdefault(language, []).append((before + line["cpu_minutes"], value))
        before += lines[-1]["cpu_minutes"]
    for language, own in points.items():
        axes.plot(*zip(*own, strict=True), marker="o", markersize=3, label=ENGLISH[language])
    axes.set(xlabel="CPU minutes", ylabel="exact match", ylim=(0, 1))
    axes.legend(frameon=False)
    return drawn


def sheet(drawings: list[Image.Image], texts: list[str], wrong: list[bool], columns: int = 8) -> Any:
    """Drawings with a text below each, red where it is wrong."""
    from matplotlib import pyplot

    rows = -(-len(drawings) // columns)
    drawn, axes = pyplot.subplots(rows, columns, figsize=(1.45 * columns, 2.05 * rows), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, drawing, text, red in zip(axes.flat, drawings, texts, wrong, strict=False):
        axis.imshow(drawing.resize((96, 96)))
        axis.set_title(text, y=-0.04, pad=0, va="top", fontsize=7, color="#c0392b" if red else "black")
    return drawn


def sheets(seen: dict[str, Any], logs: Path) -> dict[str, Any]:
    """Name -> figure."""
    items, drawings, wrong = seen["items"], seen["drawings"], ~seen["right"]
    chosen = np.random.default_rng(0).choice(len(items), SHOWN, replace=False)
    beside = [one for one in ("de", "fr") if one in seen]  # scripts that every font draws
    texts = ["\n".join(folded(seen[one][place]) for one in ("en", *beside)) for place in chosen]
    surest = [place for place in np.argsort(-seen["chances"]) if wrong[place]][: SHOWN // 2]
    pairs = [f"{folded(seen['en'][place])}\n({folded(items[place].label)})" for place in surest]
    return {
        "curve": curve(logs),
        "names": sheet([drawings[place] for place in chosen], texts, list(wrong[chosen])),
        "mistakes": sheet([drawings[place] for place in surest], pairs, [True] * len(surest)),
        "maps": maps(seen, [place for place in chosen if not wrong[place] and " " in items[place].label][:6]),
    }


def folded(text: str, width: int = 20) -> str:
    """At most two lines."""
    import textwrap

    return "\n".join(textwrap.wrap(text, width, max_lines=2, placeholder=" …"))


def maps(seen: dict[str, Any], places: list[int]) -> Any:
    """A row of six drawings: each with what its last word was read from."""
    from matplotlib import pyplot

    model, chosen = seen["model"], [seen["drawings"][place] for place in places]
    inputs = model.processor(images=chosen, return_tensors="pt")
    output = model.writer.generate(**inputs, num_beams=1, return_dict_in_generate=True)
    told = model.writer.explain(inputs, output, processor=model.processor, pictures=[[one] for one in chosen])
    drawn, axes = pyplot.subplots(2, len(chosen), figsize=(1.9 * len(chosen), 4), layout="constrained")
    for column, (drawing, one) in enumerate(zip(chosen, told, strict=True)):
        for row, word in enumerate((0, len(one.words) - 1)):
            axis = axes[row, column]
            axis.imshow(drawing)
            weights = one.maps[word] / max(one.maps[word].max(), 1e-12)
            axis.imshow(weights, cmap="autumn_r", vmin=0, vmax=1, alpha=0.8 * weights, extent=(0, 256, 256, 0))
            axis.set_title(one.words[word], fontsize=9)
            axis.axis("off")
    return drawn


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, nargs="+", default=[PACKAGED_MODEL])
    parser.add_argument("--log", type=Path, default=LOG, help="what is measured is kept here")
    parser.add_argument("--test", action="store_true", help="add OpenMoji to what the log has (only for a release)")
    parser.add_argument("--spoken", action="store_true", help="measure only the spoken names, and keep the rest")
    parser.add_argument("--page", action="store_true", help="only write the page, of the log")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="where results.md and pictures/ go")
    asked = parser.parse_args(arguments)
    folder = asked.output / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    if asked.test:
        log = json.loads(asked.log.read_text(encoding="utf-8"))
        for model in asked.model:
            log["models"][model.name]["results"] += measured(model, test=True)[0]["results"]
        asked.log.write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
    elif asked.spoken:
        log = json.loads(asked.log.read_text(encoding="utf-8"))
        log["models"][SPOKEN.name] = {"spoken": spoken(SPOKEN)}
        asked.log.write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
    elif not asked.page:
        before = json.loads(asked.log.read_text(encoding="utf-8"))["models"] if asked.log.exists() else {}
        log, seen = {"machine": harness.machine(), "models": {}}, {}
        for model in asked.model:
            found, seen = measured(model)
            found["weights"] = weights_of(model)
            found["results"] += of_test_style(before.get(model.name, {}), found["weights"])
            log["models"][model.name] = found
        log["models"][SPOKEN.name] = {"spoken": spoken(SPOKEN)}
        asked.log.write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
        for name, drawn in sheets(seen, LOG.parent).items():
            drawn.savefig(folder / f"results-{name}.png", dpi=90, metadata={"Software": None})
    if not asked.log.exists():
        parser.error(f"{asked.log} is not there; measure first, without --page")
    there = [name for name in ("curve", "names", "mistakes", "maps") if (folder / f"results-{name}.png").exists()]
    text = page(json.loads(asked.log.read_text(encoding="utf-8")), there)
    (asked.output / "results.md").write_text(text, encoding="utf-8")
    print(asked.output / "results.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
