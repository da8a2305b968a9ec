"""How well a saved captioner names drawings in a style that it never saw; the table of the README.

    python benchmarks/emoji_captions.py                              # Twemoji, the development style
    python benchmarks/emoji_captions.py --baseline hog.npz           # and the paired difference to a baseline
    python benchmarks/emoji_captions.py --test                       # OpenMoji: once per release

Drawings are rendered at 256 pixels and go through the checkpoint's own processor and generate(), as a user's do.
`--baseline` takes what `emoji_baselines.py --matches` wrote. EM is exact match with 95 % bootstrap intervals.
"""

import argparse
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForImageTextToText, AutoProcessor

from mm.cli.caption import PACKAGED_MODEL
from mm.evaluation.captions import bootstrap_interval, chrf, exact_match
from mm.recipes.emoji import DEV_VENDOR, TEST_VENDOR, EmojiItem, load_items, render, split_of

SPLITS = {"seen names": "seen", "new names, dev": "unseen_dev", "new names, test": "unseen_test"}


def captions(model, processor, items: list[EmojiItem], **settings) -> Iterator[str]:
    """The model's caption of each drawing, batch by batch."""
    for start in range(0, len(items), 64):
        drawings = [render(item.svg, 256) for item in items[start : start + 64]]
        inputs = processor(images=drawings, return_tensors="pt")
        yield from processor.batch_decode(model.generate(**inputs, **settings), skip_special_tokens=True)


def row(name: str, right: np.ndarray, found: list[str], labels: list[str]) -> str:
    low, high = bootstrap_interval(right)
    return f"{name:<28}{len(found):>6}{right.mean():>8.3f} [{low:.3f}, {high:.3f}]{chrf(found, labels).value:>8.1f}"


def paired(right: np.ndarray, items: list[EmojiItem], file: Path) -> Iterator[str]:
    """A line per baseline: the difference in exact match, picture by picture, with its interval."""
    baselines = dict(np.load(file))
    order = {concept: i for i, concept in enumerate(baselines.pop("concepts"))}
    places = [order[item.concept] for item in items]
    for name, theirs in baselines.items():
        difference = right - theirs[places]
        low, high = bootstrap_interval(difference)
        yield f"  minus {name:<22}{difference.mean():>+14.3f} [{low:+.3f}, {high:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=PACKAGED_MODEL)
    parser.add_argument("--num-beams", type=int, help="default: the checkpoint's own")
    parser.add_argument("--baseline", type=Path, help="what emoji_baselines.py --matches wrote")
    parser.add_argument("--test", action="store_true", help="measure on OpenMoji (only for a release)")
    options = parser.parse_args()

    vendor = TEST_VENDOR if options.test else DEV_VENDOR
    settings = {"num_beams": options.num_beams} if options.num_beams else {}
    model = AutoModelForImageTextToText.from_pretrained(options.model).eval()
    processor = AutoProcessor.from_pretrained(options.model)
    beams = options.num_beams or model.generation_config.num_beams or 1
    print(
        f"style {vendor}; beams {beams}; Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}\n"
    )
    print(f"{'':<28}{'n':>6}{'EM, 95 %':>24}{'chrF':>8}")
    for name, split in SPLITS.items():
        if split == "unseen_test" and not options.test:
            continue
        items = [item for item in load_items([vendor]) if split_of(item.concept) == split]
        start = time.perf_counter()
        found = list(captions(model, processor, items, **settings))
        seconds = time.perf_counter() - start
        labels = [item.label for item in items]
        right = exact_match(found, labels).per_item
        print(row(name, right, found, labels), f"   {len(items) / seconds:.0f} pictures/s")
        if options.baseline and split == "seen":
            print(*paired(right, items, options.baseline), sep="\n")


if __name__ == "__main__":
    main()
