"""Do the maps of a captioner show what its words come from? The tables of docs/explaining.md.

    python benchmarks/faithfulness.py --log benchmarks/logs/faithfulness.txt     # make faithfulness; some minutes
    python benchmarks/faithfulness.py --pictures 8 --curves 2                    # a look

Drawings of Twemoji, a style that mm-tiny never saw, with names that it knows. Every word of the true name is
explained, given the words before it, and the words of a picture count as one.

    pointing game, mass inside    drawings of 5 to 25 % of the area, anywhere on white, a colour or a texture, or
                                  beside a second drawing; the processor's own cut to the content is off
    deletion, insertion           drawings as the model was trained on them, with the true name; a word's probability

Intervals are 95 % bootstrap intervals over pictures; differences and ratios are paired.
"""

import argparse
import itertools
import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image

import mm
from mm.cli.caption import PACKAGED_MODEL
from mm.evaluation.captions import exact_match
from mm.evaluation.faithfulness import (
    area_under,
    centre_map,
    deletion_curve,
    enlarge,
    insertion_curve,
    mass_inside,
    pointing_hit,
    random_map,
)
from mm.evaluation.intervals import grouped_interval, mean_interval
from mm.recipes.cutouts import background, paste
from mm.recipes.emoji import DEV_VENDOR, EmojiItem, load_items, pictures, split_of

SIDE = 128
EXPLAINED = ("attention", "rollout", "grad", "occlusion", "integrated_gradients")
SETS = ("white", "colour", "texture", "beside another")
Maps = Callable[["Captioner", np.ndarray, str], np.ndarray]  # (words, H, W), 0 or more


class Captioner:
    """A model that gives each word of a caption a probability."""

    def __init__(self, path: Path):
        self.model = mm.MMForConditionalGeneration.from_pretrained(path).eval()
        self.processor = mm.MMProcessor.from_pretrained(path)
        self.processor.image_processor.do_crop_content = False
        self.grid = self.model.config.vision_config.grid_size

    def tokens(self, caption: str) -> tuple[torch.Tensor, list[int]]:
        """(T,) bos, the pieces, eos; and the word (0, 1, ...) of each piece."""
        pieces = [self.processor.tokenizer(word, add_special_tokens=False).input_ids for word in caption.split()]
        whole = self.processor.tokenizer(caption).input_ids
        if whole[1:-1] != sum(pieces, []):
            raise ValueError(f"the words of {caption!r} have other tokens alone than in the caption")
        return torch.tensor(whole), [number for number, word in enumerate(pieces) for _ in word]

    def pixels(self, pictures: np.ndarray) -> torch.Tensor:
        inputs = self.processor(images=list(pictures), return_tensors="pt")
        return inputs["pixel_values"]

    def log_probabilities(self, caption: str, **inputs) -> tuple[torch.Tensor, object]:
        """(n, words): of each word, given those before it; and all that the model returned."""
        ids, words = self.tokens(caption)
        rows = len(next(iter(inputs.values())))
        out = self.model(input_ids=ids[:-1].expand(rows, -1), **inputs)
        each = out.logits[:, :-1].log_softmax(-1).gather(2, ids[1:-1].expand(rows, -1)[..., None])[..., 0]
        return torch.zeros(rows, max(words) + 1).index_add(1, torch.tensor(words), each), out

    @torch.no_grad()
    def probabilities(self, pictures: np.ndarray, caption: str) -> np.ndarray:
        """float64 (n, words)."""
        return self.log_probabilities(caption, pixel_values=self.pixels(pictures))[0].exp().double().numpy()

    @torch.no_grad()
    def captions(self, pictures: np.ndarray) -> list[str]:
        found = []
        for start in range(0, len(pictures), 64):
            ids = self.model.generate(pixel_values=self.pixels(pictures[start : start + 64]))
            found += self.processor.batch_decode(ids, skip_special_tokens=True)
        return found


def in_pixels(captioner: Captioner, cells: torch.Tensor) -> np.ndarray:
    """(words, cells) of the tower's last grid -> (words, SIDE, SIDE)."""
    grids = cells.detach().numpy().reshape(-1, captioner.grid, captioner.grid)
    return np.stack([enlarge(grid, (SIDE, SIDE)) for grid in grids])


def explained(method: str) -> Maps:
    """`model.explain` by a method."""

    def maps(captioner: Captioner, picture: np.ndarray, caption: str) -> np.ndarray:
        inputs = {"pixel_values": captioner.pixels(picture[None])}
        ids, words = captioner.tokens(caption)
        (found,) = captioner.model.explain(
            inputs, ids[None], processor=captioner.processor, pictures=[Image.fromarray(picture)], method=method
        )
        if len(found.words) != max(words) + 1:
            raise ValueError(f"{caption!r} was explained as {found.words}")
        return found.maps

    return maps


def grad_cam(captioner: Captioner, picture: np.ndarray, caption: str) -> np.ndarray:
    """Grad-CAM (Selvaraju et al. 2017) on the tower's last grid."""
    with torch.no_grad():
        features = captioner.model.model.vision_tower(captioner.pixels(picture[None])).last_hidden_state
    features.requires_grad_(True)
    logs, _ = captioner.log_probabilities(caption, visual_embeds=features)
    found = []
    for word in range(logs.shape[1]):
        slope = torch.autograd.grad(logs[0, word], features, retain_graph=True)[0]
        found.append((features * slope.mean(1, keepdim=True)).sum(-1).relu()[0])
    return in_pixels(captioner, torch.stack(found))


METHODS: dict[str, Maps] = {name: explained(name) for name in EXPLAINED} | {"Grad-CAM of the tower": grad_cam}


def baselines(captioner: Captioner, words: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Maps that have not seen the model."""
    shape = (SIDE, SIDE)
    return {
        "centre": np.repeat(centre_map(shape)[None], words, 0),
        "random": np.stack([random_map(shape, captioner.grid, generator) for _ in range(words)]),
        "random pixels": np.stack([random_map(shape, SIDE, generator) for _ in range(words)]),
    }


def all_maps(captioner: Captioner, picture: np.ndarray, caption: str, generator) -> dict[str, np.ndarray]:
    """(words, H, W) by method. A map that is 0 everywhere says that every pixel counts as much."""
    found = {name: method(captioner, picture, caption) for name, method in METHODS.items()}
    for maps in found.values():
        maps[maps.sum((1, 2)) <= 0] = 1.0
    return found | baselines(captioner, len(next(iter(found.values()))), generator)


def best_cell(mask: np.ndarray, grid: int) -> np.ndarray:
    """The map that only marks the cell with most of the object: the best that one cell can do."""
    size = SIDE // grid
    cover = mask.reshape(grid, size, grid, size).mean((1, 3))
    return enlarge(cover == cover.max(), (SIDE, SIDE))


def placed(kind: str, item: EmojiItem, other: EmojiItem, generator: np.random.Generator):
    """One picture of a set; another size or place is drawn until the drawing fits."""
    for _ in range(100):
        on = background(kind if kind in ("white", "texture") else "colour", SIDE, generator)
        area, area_other = generator.uniform(0.05, 0.25, 2)
        pasted = paste(item.svg, on, area, generator)
        if pasted is None or kind != "beside another":
            if pasted is not None:
                return pasted
            continue
        both = paste(other.svg, pasted.picture, area_other, generator, beside=pasted.mask)
        if both is not None:
            hidden = (both.picture != pasted.picture).any(-1) & pasted.mask  # a soft edge over the first
            return type(pasted)(both.picture, pasted.mask & ~hidden)
    raise ValueError(f"the drawing {item.label!r} fits nowhere with 5 to 25 % of the area")


def pointing(captioner: Captioner, kind: str, items: list[EmojiItem]) -> Iterator[str]:
    """The lines of one set of pictures."""
    generator = np.random.default_rng(SETS.index(kind))
    hits: dict[str, list[float]] = {}
    masses: dict[str, list[float]] = {}
    shown = []
    for number, item in enumerate(items):
        pasted = placed(kind, item, items[(number + 1) % len(items)], generator)
        shown.append(pasted)
        maps = all_maps(captioner, pasted.picture, item.label, generator)
        maps["best cell"] = best_cell(pasted.mask, captioner.grid)[None]
        for name, of_words in maps.items():
            hits.setdefault(name, []).append(np.mean([pointing_hit(one, pasted.mask) for one in of_words]))
            masses.setdefault(name, []).append(np.mean([mass_inside(one, pasted.mask) for one in of_words]))
    said = captioner.captions(np.stack([one.picture for one in shown]))
    right = exact_match(said, [item.label for item in items]).value
    groups = range(len(items))
    area = np.mean([one.mask.mean() for one in shown])
    yield f"{kind}: {len(items)} pictures, mean area {area:.3f}, caption right in {right:.3f}"
    yield f"  {'':<22}{'pointing game':>22}{'times the centre':>24}{'mass inside':>22}"
    for name, values in hits.items():
        pairs = np.stack([values, hits["centre"]], -1)
        cells = span(mean_interval(values, groups)), span(grouped_interval(pairs, groups, quotient), 2)
        yield f"  {name:<22}{cells[0]}  {cells[1]}{span(mean_interval(masses[name], groups))}"


def quotient(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / np.where(sums[..., 1] > 0, sums[..., 1], np.nan)


def areas(captioner: Captioner, picture: np.ndarray, caption: str, maps: np.ndarray, steps: int) -> dict[str, float]:
    """The AUC of each test and fill, the mean of the words."""
    found: dict[str, list[float]] = {}
    for word, one in enumerate(maps):

        def score(shown: np.ndarray, word: int = word) -> np.ndarray:
            return captioner.probabilities(shown, caption)[:, word]

        for fill in ("mean", "blur"):
            for kind, curve in (("deletion", deletion_curve), ("insertion", insertion_curve)):
                area = area_under(curve(score, picture, one, steps, fill))
                found.setdefault(f"{kind}, fill {fill}", []).append(area)
    return {name: float(np.mean(values)) for name, values in found.items()}


def curves(captioner: Captioner, items: list[EmojiItem], steps: int) -> Iterator[str]:
    """Deletion and insertion, each with two fills."""
    generator = np.random.default_rng(10)
    drawn = pictures(items, SIDE, crop=True)
    rows: dict[str, dict[str, list[float]]] = {}
    before = []
    for picture, item in zip(drawn, items, strict=True):
        before.append(captioner.probabilities(picture[None], item.label).mean())
        for name, maps in all_maps(captioner, picture, item.label, generator).items():
            for title, area in areas(captioner, picture, item.label, maps, steps).items():
                rows.setdefault(title, {}).setdefault(name, []).append(area)
    yield f"{len(items)} drawings, {steps} steps, mean probability of a word of the true name {np.mean(before):.3f}"
    groups = range(len(items))
    for title, found in rows.items():
        sign = "lower is better" if title.startswith("deletion") else "higher is better"
        yield f"{title} ({sign})"
        yield f"  {'':<22}{'AUC':>22}{'minus random':>24}{'minus centre':>24}"
        for name, values in found.items():
            ours = np.array(values)
            minus = [mean_interval(ours - np.array(found[other]), groups) for other in ("random", "centre")]
            cells = [span(mean_interval(ours, groups)), *(span(one, signed=True) for one in minus)]
            yield f"  {name:<22}{'  '.join(cells)}"


def span(found: tuple[float, float, float], digits: int = 3, signed: bool = False) -> str:
    sign = "+" if signed else ""
    value, low, high = (f"{number:{sign}.{digits}f}" for number in found)
    return f"{value} [{low}, {high}]".rjust(22)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=PACKAGED_MODEL)
    parser.add_argument("--pictures", type=int, default=150, help="of each set for the pointing game")
    parser.add_argument("--curves", type=int, default=40, help="drawings for deletion and insertion")
    parser.add_argument("--steps", type=int, default=10, help="of deletion and insertion")
    parser.add_argument("--log", type=Path, help="also write the text to this file")
    options = parser.parse_args()
    captioner = Captioner(options.model)
    seen = [item for item in load_items([DEV_VENDOR]) if split_of(item.concept) == "seen"]
    order = np.random.default_rng(0).permutation(len(seen))
    fitting = (seen[place] for place in order if usable(captioner, seen[place]))
    items = list(itertools.islice(fitting, max(options.pictures, options.curves)))
    lines = [
        f"style {DEV_VENDOR}, grid {captioner.grid} x {captioner.grid}; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}, {platform.machine()}"
    ]
    print(lines[0])
    parts = [pointing(captioner, kind, items[: options.pictures]) for kind in SETS]
    for part in (*parts, curves(captioner, items[: options.curves], options.steps)):
        for line in ("", *part):
            lines.append(line)
            print(line, flush=True)
    if options.log:
        options.log.write_text("\n".join(lines) + "\n", encoding="utf-8")


def usable(captioner: Captioner, item: EmojiItem) -> bool:
    """Names whose words have the same tokens alone, as a map of a word needs."""
    try:
        captioner.tokens(item.label)
        placed("white", item, item, np.random.default_rng(0))
    except ValueError:
        return False
    return True


if __name__ == "__main__":
    main()
