"""Whether a captioner knows what it does not know: its calibration, and known drawings against the rest.

    python benchmarks/known_unknown.py --model checkpoints/mm-tiny

Known: Twemoji's drawings of names that training had in other styles. Every second one fits the calibration, as
`mm.recipes.calibrated` keeps it; the others are measured. Unknown: photographs and clip art (Tux Paint's stamps) and
noise. AUROC is the chance that a known drawing is given a higher chance than one of the others; 0.5 is guessing.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from transformers import AutoModelForImageTextToText, AutoProcessor

from mm.cli.caption import PACKAGED_MODEL
from mm.evaluation.calibration import Calibration
from mm.evaluation.captions import bootstrap_interval
from mm.evaluation.classes import auc, probability_scores
from mm.recipes.calibrated import SIZE, calibrated, read
from mm.recipes.emoji import DEV_VENDOR, load_items, render, render_transparent, split_of
from mm.recipes.sources import debian_directory

NOISE = 200
COLOURFUL = 0.6  # distinct colours per opaque pixel: photographs are above, drawings below


def on_white(picture: Image.Image) -> Image.Image:
    canvas = Image.new("RGBA", picture.size, "white")
    canvas.alpha_composite(picture.convert("RGBA"))
    return canvas.convert("RGB")


def is_photograph(picture: Image.Image) -> bool:
    """By the number of its colours: of 100 that were looked at about 90 are photographs."""
    seen = np.asarray(picture.convert("RGBA").resize((64, 64), Image.Resampling.NEAREST))
    opaque = seen[seen[..., 3] > 250][:, :3]
    return len(opaque) > 400 and len(np.unique(opaque, axis=0)) / len(opaque) > COLOURFUL


def stamps() -> tuple[list[Image.Image], list[Image.Image]]:
    """Photographs among the PNG files, and the drawings of the SVG files, on white."""
    root = debian_directory("tuxpaint-stamps-default") / "usr/share/tuxpaint/stamps"
    photographs = []
    for path in sorted(root.rglob("*.png")):
        with Image.open(path) as picture:
            if "mirror" not in path.name and "flip" not in path.name and is_photograph(picture):
                photographs.append(on_white(picture))
    drawings = []
    for path in sorted(root.rglob("*.svg")):
        try:
            drawings.append(on_white(render_transparent(path.read_text(encoding="utf-8"), SIZE)))
        except (ValueError, UnicodeDecodeError):
            continue  # resvg draws no such file
    return photographs, drawings


def noise(count: int = NOISE) -> list[Image.Image]:
    """Grey and coloured grains of sizes from 1 to 32 pixels, each third blurred."""
    generator, made = np.random.default_rng(0), []
    for number in range(count):
        side, channels = SIZE // 2 ** (number % 6), 3 if number % 2 else 1
        grains = generator.integers(0, 256, (side, side, channels), np.uint8)
        picture = Image.fromarray(np.broadcast_to(grains, (side, side, 3)).copy())
        picture = picture.resize((SIZE, SIZE), Image.Resampling.NEAREST)
        made.append(picture.filter(ImageFilter.GaussianBlur(4)) if number % 3 == 0 else picture)
    return made


def table(calibration: Calibration, known: np.ndarray, right: np.ndarray, unknown: dict[str, np.ndarray]) -> str:
    """Markdown: of each kind how many are told with confidence, how many of these are right, and AUROC."""

    def chances(scores: np.ndarray) -> np.ndarray:
        return np.array([calibration.chance(score) for score in scores])

    sure = chances(known) >= calibration.unsure_below
    low, high = bootstrap_interval(right[sure].astype(float))
    told = f"{right[sure].mean():.3f} [{low:.3f}, {high:.3f}]"
    lines = [
        "| pictures | number | sure of | right where sure, 95 % | AUROC of known against these |",
        "|---|---|---|---|---|",
        f"| Twemoji, known names | {len(known)} | {sure.mean():.2f} | {told} | |",
    ]
    for name, scores in unknown.items():
        labels = np.repeat([1, 0], [len(known), len(scores)])
        found = auc(np.concatenate([known, scores]), labels)
        only = auc(np.concatenate([known[right], scores]), np.repeat([1, 0], [right.sum(), len(scores)]))
        sure_of = (chances(scores) >= calibration.unsure_below).mean()
        lines.append(f"| {name} | {len(scores)} | {sure_of:.2f} | | {found:.3f}; of those named right {only:.3f} |")
    return "\n".join(lines)


def brier(chances: np.ndarray, right: np.ndarray) -> float:
    """The mean squared distance of a chance to 0 or 1."""
    return probability_scores(np.stack([1 - chances, chances], 1), right.astype(int))["brier"].value / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=PACKAGED_MODEL)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_pretrained(options.model).eval()
    processor = AutoProcessor.from_pretrained(options.model)

    calibration, scores, right = calibrated(model, processor)
    print(calibration, "\n")
    photographs, drawings = stamps()
    new = [item for item in load_items([DEV_VENDOR]) if split_of(item.concept) == "unseen_dev"]
    kinds = {
        "Twemoji, names not in training": [render(item.svg, SIZE) for item in new],
        "photographs": photographs, "clip art": drawings, "noise": noise(),
    }  # fmt: skip
    unknown = {name: read(model, processor, pictures)[1] for name, pictures in kinds.items()}
    print(table(calibration, scores[1::2], right[1::2], unknown), "\n")
    raw, told = np.exp(scores[1::2]), np.array([calibration.chance(score) for score in scores[1::2]])
    print(f"right: {right[1::2].mean():.3f}")
    for name, chances in (("exp(score), as it is", raw), ("calibrated", told)):
        print(f"{name}: mean {chances.mean():.3f}, Brier {brier(chances, right[1::2]):.3f}")


if __name__ == "__main__":
    main()
