"""How well mm-draw draws names in styles that it never saw together; baselines in the same tables.

    python benchmarks/drawing.py --log benchmarks/logs/drawing.txt --sheet build/drawn.png

The pairs of a name and a style are those that `mm.recipes.draw_data` holds out. For each there is the true picture, it
after the tokenizer, what the model draws, in order and (with --parallel) in a few steps, and copies: the same name in
another style (the mean over all that have it), and the drawing that the name's embeddings began as.

    named      mm-tiny, which never saw a drawn picture, gives the name
    R@1, R@5   the true picture is among the 1 or 5 nearest of all true pictures of the asked style
    style      a classifier that was trained on real drawings, without the pairs, names the asked style
    distance   1 - cosine to the true picture, of EfficientNet-Lite0's last features
    spread     of four drawings of one prompt: their mean distance to each other

Intervals are 95 %, bootstrap over pairs.
"""

import argparse
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawing_features import Features, StyleClassifier, as_float, blurred, ranks
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoModelForMaskedLM, AutoProcessor

from mm.cli.caption import PACKAGED_MODEL
from mm.evaluation.intervals import mean_interval
from mm.recipes.draw_data import STYLES, beginnings, drawing_items, pixels, style_of
from mm.recipes.draw_model import prompt
from mm.recipes.draw_tokenizer import reconstructed
from mm.recipes.emoji import load_items, split_of

FOLDER = Path("checkpoints/mm-draw")
SHOWN = 64  # pictures of the sheet
SPREAD = 32  # prompts that are drawn four times
BEGUN = "what the name began as"
WORDS = list(STYLES)


def drawn(model: Any, processor: Any, prompts: list[str], **settings) -> torch.Tensor:
    """uint8 (n, 3, 64, 64), one picture for each prompt, 32 at a time."""
    found = []
    for start in range(0, len(prompts), 32):
        part = prompts[start : start + 32]
        seeds = list(range(start, start + len(part)))
        ids = model.draw(**processor(text=part, return_tensors="pt"), seed=seeds, **settings)
        found += [torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in processor.decode_images(ids)]
    return torch.stack(found)


@torch.no_grad()
def named(captioner: Any, processor: Any, pictures: torch.Tensor, labels: list[str]) -> np.ndarray:
    """float (n,), 1.0 where the captioner gives the name."""
    found = []
    for part in (as_float(pictures) * 255).round().byte().split(64):
        images = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in part]
        ids = captioner.generate(**processor(images=images, return_tensors="pt"))
        found += processor.batch_decode(ids, skip_special_tokens=True)
    return np.array([told == label for told, label in zip(found, labels, strict=True)], float)


class Pairs:
    """The held-out pairs, all real pictures, and what measures them."""

    def __init__(self, captioner: Path):
        self.items = drawing_items(held=True)
        self.labels = [item.label for item in self.items]
        self.styles = np.array([WORDS.index(style_of(item)) for item in self.items])
        self.real = [item for item in load_items(STYLES.values()) if split_of(item.concept) == "seen"]
        self.features = Features()
        self.pixels = pixels(self.real)
        self.shown = self.features(self.pixels)["shown"]
        self.began = {item.concept: item for item in beginnings()}
        self.place = {(item.concept, item.vendor): number for number, item in enumerate(self.real)}
        self.truth = np.array([self.place[item.concept, item.vendor] for item in self.items])
        self.captioner = AutoModelForImageTextToText.from_pretrained(captioner).eval()
        self.processor = AutoProcessor.from_pretrained(captioner)
        train = drawing_items(held=False)
        seen = pixels(train)
        numbers = np.array([WORDS.index(style_of(item)) for item in train])
        both = [self.features(one)["drawn"] for one in (seen, blurred(seen))]
        self.classifier = StyleClassifier(np.concatenate(both), np.concatenate([numbers, numbers]))

    def measure(self, pictures: torch.Tensor, which: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Each number of each picture; `which` says of which pair a picture is, where that is not its place."""
        which = np.arange(len(self.items)) if which is None else which
        features = self.features(pictures)
        rank = np.zeros(len(which), int)
        for style in range(len(WORDS)):
            gallery = np.array([n for n, item in enumerate(self.real) if item.vendor == STYLES[WORDS[style]]])
            rows = np.flatnonzero(self.styles[which] == style)
            truth = np.searchsorted(gallery, self.truth[which[rows]])
            rank[rows] = ranks(features["shown"][rows], self.shown[gallery], truth)
        return {
            "named": named(self.captioner, self.processor, pictures, [self.labels[n] for n in which]),
            "R@1": (rank < 1).astype(float), "R@5": (rank < 5).astype(float),
            "style": (self.classifier(features["drawn"]) == self.styles[which]).astype(float),
            "distance": 1 - (features["shown"] * self.shown[self.truth[which]]).sum(1),
        }  # fmt: skip

    def keep(self, chosen: np.ndarray) -> None:
        """Goes on with some of the pairs."""
        self.items, self.labels = ([one[n] for n in chosen] for one in (self.items, self.labels))
        self.styles, self.truth = self.styles[chosen], self.truth[chosen]

    def copies(self) -> tuple[torch.Tensor, np.ndarray]:
        """(the pictures of each pair's name in its other styles, of which pair each is)."""
        found = [
            (self.place[item.concept, vendor], number)
            for number, item in enumerate(self.items)
            for vendor in STYLES.values()
            if vendor != item.vendor and (item.concept, vendor) in self.place
        ]
        places, which = (np.array(column) for column in zip(*found, strict=True))
        return self.pixels[places], which


def told(values: np.ndarray, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return "{:{s}.3f} [{:{s}.3f}, {:{s}.3f}]".format(*mean_interval(values, range(len(values))), s=sign)


def by_pair(values: np.ndarray, which: np.ndarray) -> np.ndarray:
    """The mean of each pair's copies."""
    return np.bincount(which, values) / np.bincount(which)


def table(pairs: Pairs, made: dict[str, torch.Tensor]) -> Iterator[str]:
    """A row for each kind of picture, then what has to be above 0."""
    found = {name: pairs.measure(pictures) for name, pictures in made.items()}
    pictures, which = pairs.copies()
    copied = pairs.measure(pictures, which)
    found["copies of other styles"] = {name: by_pair(values, which) for name, values in copied.items()}
    nearest = np.full(len(pairs.items), np.inf)
    np.minimum.at(nearest, which, copied["distance"])
    columns = ["named", "R@1", "R@5", "style", "distance"]
    yield f"{'':30}" + "".join(f"{name:24}" for name in columns).rstrip()
    for name, values in found.items():
        yield f"{name:30}" + "".join(f"{told(values[column]):24}" for column in columns).rstrip()
    size = np.mean([sum(item.vendor == vendor for item in pairs.real) for vendor in STYLES.values()])
    yield f"{'at random':30}{'':24}{1 / size:<24.3f}{5 / size:<24.3f}{1 / len(WORDS):<24.3f}"
    for way in (name for name in found if name.startswith("drawn")):
        yield ""
        drawing = found[way]
        for name in ("true pictures", "true, after the tokenizer", BEGUN, "drawn"):
            if name != way:
                yield f"named, {way} as a share of {name}: {_share(drawing['named'], found[name]['named'])}"
        gain = found["copies of other styles"]["distance"] - drawing["distance"]
        yield f"distance, copies - {way}: {told(gain, signed=True)}"
        yield f"distance, the nearest copy of each pair - {way}: {told(nearest - drawing['distance'], signed=True)}"
        for number, word in enumerate(WORDS):
            rows = pairs.styles == number
            shares = ", ".join(f"{column} {drawing[column][rows].mean():.3f}" for column in columns)
            first = f"named after the tokenizer {found['true, after the tokenizer']['named'][rows].mean():.3f}"
            yield f"{word}: {rows.sum()} pairs, {shares}; {first}"


def _share(ours: np.ndarray, theirs: np.ndarray) -> str:
    """The ratio of two means of the same pairs, with its interval."""
    counts = np.random.default_rng(0).multinomial(len(ours), np.full(len(ours), 1 / len(ours)), size=2000)
    low, high = np.nanquantile((counts @ ours) / (counts @ theirs), [0.025, 0.975])
    return f"{ours.mean() / theirs.mean():.3f} [{low:.3f}, {high:.3f}]"


def spread(pairs: Pairs, several: torch.Tensor) -> np.ndarray:
    """(n,): the mean distance of the four drawings (n * 4) of each prompt to each other."""
    shown = pairs.features(several)["shown"].reshape(-1, 4, 1280)
    likeness = np.einsum("nid,njd->nij", shown, shown)
    return 1 - (likeness.sum((1, 2)) - 4) / 12


def sheet(made: torch.Tensor, true: torch.Tensor, file: Path) -> None:
    """The first SHOWN drawings, the true picture to the right of each, eight pairs a row."""
    both = torch.cat([(as_float(one[:SHOWN]) * 255).round().byte() for one in (made, true)], 3)  # (n, 3, 64, 128)
    rows = both.unflatten(0, (-1, 8)).permute(0, 3, 1, 4, 2)  # (8, 64, 8, 128, 3)
    Image.fromarray(rows.flatten(2, 3).flatten(0, 1).numpy()).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--captioner", type=Path, default=PACKAGED_MODEL)
    parser.add_argument("--guidance-scale", type=float, default=2.0)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--parallel", type=Path, help="a model that draws in parallel")
    parser.add_argument("--steps", type=int, default=16, help="of that model")
    parser.add_argument("--choice-temperature", type=float, default=4.5, help="of that model")
    parser.add_argument("--limit", type=int, help="so many pairs")
    parser.add_argument("--skip", type=int, default=0, help="pairs that are left out: settings were chosen on them")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = list(results(options))
    if options.log:
        options.log.write_text("\n".join(lines) + "\n", encoding="utf-8")


def results(options: argparse.Namespace) -> Iterator[str]:
    """The lines of the log, which are printed as they come."""
    for line in _results(options):
        print(line, flush=True)
        yield line


def _results(options: argparse.Namespace) -> Iterator[str]:
    model = AutoModelForImageTextToText.from_pretrained(options.model).eval()
    processor = AutoProcessor.from_pretrained(options.model)
    pairs = Pairs(options.captioner)
    chosen = np.random.default_rng(0).permutation(len(pairs.items))[options.skip :][: options.limit]
    pairs.keep(chosen)
    prompts = [prompt(item) for item in pairs.items]
    settings = {"guidance_scale": options.guidance_scale, "temperature": options.temperature}
    yield (
        f"{len(prompts)} held-out pairs of a name and a style; guidance {options.guidance_scale:g}, "
        f"temperature {options.temperature:g}"
    )
    true = pairs.pixels[pairs.truth]
    made = {
        "true pictures": true,
        "true, after the tokenizer": reconstructed(processor.image_tokenizer, true)[0],
        BEGUN: pixels([pairs.began[item.concept] for item in pairs.items]),
    }
    start = time.perf_counter()
    made["drawn"] = drawn(model, processor, prompts, **settings)
    yield f"{(time.perf_counter() - start) / len(prompts):.3f} s a picture in order, one thread, batches of 32"
    if options.parallel:
        other = AutoModelForMaskedLM.from_pretrained(options.parallel).eval()
        few = {**settings, "steps": options.steps, "choice_temperature": options.choice_temperature}
        start = time.perf_counter()
        made[f"drawn in {options.steps} steps"] = drawn(other, processor, prompts, **few)
        yield f"{(time.perf_counter() - start) / len(prompts):.3f} s a picture in {options.steps} steps"
    yield from table(pairs, made)
    several = drawn(model, processor, [one for one in prompts[:SPREAD] for _ in range(4)], **settings)
    different = np.array([len({one.numpy().tobytes() for one in part}) for part in several.split(4)])
    yield f"spread of four drawings: {told(spread(pairs, several))}; different ones of 4: {different.mean():.2f}"
    true_spread = spread(pairs, copies_of_four(pairs))
    yield f"spread of four true pictures of four names: {told(true_spread)}"
    yield from cost(model, processor, prompts[:4], settings)
    if options.sheet:
        sheet(made["drawn"], true, options.sheet)


def copies_of_four(pairs: Pairs) -> torch.Tensor:
    """True pictures of the first pairs, four after four: what spread names have that have nothing in common."""
    return pairs.pixels[pairs.truth[: len(pairs.truth) // 4 * 4]]


def cost(model: Any, processor: Any, prompts: list[str], settings: dict[str, float]) -> Iterator[str]:
    """Time of four pictures with and without a cache, and the memory of the process."""
    seconds = {}
    for use_cache in (True, False):
        start = time.perf_counter()
        model.draw(**processor(text=prompts, return_tensors="pt"), seed=0, use_cache=use_cache, **settings)
        seconds[use_cache] = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    yield (
        f"four pictures: {seconds[True]:.2f} s with a cache, {seconds[False]:.2f} s without: "
        f"{seconds[False] / seconds[True]:.1f} times; {peak:.0f} MiB at most in this process, with what measures"
    )


if __name__ == "__main__":
    main()
