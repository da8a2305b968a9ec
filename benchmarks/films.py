"""Films of moved drawings: does a model of pictures name them as it names the drawing?

    python benchmarks/films.py            # every second of Twemoji's known names

The films are synthetic: a drawing wanders, turns and grows on white, FRAMES frames. The model is the shipped mm-tiny,
which was trained on pictures alone and is opened for films by its configuration; nothing is trained. A film is read in
two ways: the tokens of all frames side by side, or their mean over time (video_pooling="time"). Beside it stand the
drawing as it is, one frame of the film, and the most frequent of the names of its frames.
"""

import argparse
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import experiments
import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor

import mm
from mm.evaluation.captions import exact_match
from mm.evaluation.significance import compare
from mm.recipes.emoji import DEV_VENDOR, load_items, render, render_transparent, split_of

FRAMES, SIDE = 8, 256
BATCH = 16  # films


def film(drawing: Image.Image, rng: np.random.Generator) -> list[Image.Image]:
    """FRAMES pictures (SIDE, SIDE) of a transparent drawing that goes from one place, size and angle to another."""
    ends = rng.uniform((0.25, 0.25, 0.35, -25), (0.75, 0.75, 0.9, 25), (2, 4))  # x, y, size, degrees
    frames = []
    for share in np.linspace(0, 1, FRAMES):
        x, y, size, angle = (1 - share) * ends[0] + share * ends[1]
        side = max(8, round(size * SIDE))
        small = drawing.resize((side, side), Image.Resampling.LANCZOS).rotate(angle, Image.Resampling.BICUBIC, True)
        canvas = Image.new("RGBA", (SIDE, SIDE), "white")
        room = [max(0, SIDE - length) for length in small.size]
        place = [
            round(np.clip(at * SIDE - length / 2, 0, most))
            for at, length, most in zip((x, y), small.size, room, strict=True)
        ]
        canvas.paste(small, tuple(place), small)
        frames.append(canvas.convert("RGB"))
    return frames


def opened(folder: Path, pooling: str) -> Any:
    """A captioner of pictures that takes films, too."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "this model does not see the order", UserWarning)
        return mm.MMForConditionalGeneration.from_pretrained(
            folder, modalities=["image", "video"], video_pooling=pooling
        ).eval()


@torch.no_grad()
def named(model: Any, processor: Any, media: Sequence[Any], kind: str) -> list[str]:
    texts = []
    for start in range(0, len(media), BATCH):
        inputs = processor(**{kind: list(media[start : start + BATCH])}, num_frames=FRAMES, return_tensors="pt")
        texts += processor.batch_decode(model.generate(**inputs, num_beams=1), skip_special_tokens=True)
    return [text.strip() for text in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/mm-tiny"))
    parser.add_argument("--every", type=int, default=2, help="how many drawings make one film")
    options = parser.parse_args()
    torch.set_num_threads(1)
    items = [item for item in load_items([DEV_VENDOR]) if split_of(item.concept) == "seen"][:: options.every]
    names, rng = [item.label for item in items], np.random.default_rng(0)
    processor = AutoProcessor.from_pretrained(options.model)
    joined, averaged = (opened(options.model, pooling) for pooling in ("none", "time"))
    found: dict[str, list[str]] = {"the drawing as it is": [], "one frame": [], "most frequent of the frames": []}
    found |= {"film, tokens of all frames": [], "film, mean over time": []}
    for start in range(0, len(items), BATCH):
        own = items[start : start + BATCH]
        films = [film(render_transparent(item.svg, SIDE), rng) for item in own]
        found["the drawing as it is"] += named(joined, processor, [render(item.svg, SIDE) for item in own], "images")
        each = named(joined, processor, [frame for frames in films for frame in frames], "images")
        by_film = [each[place : place + FRAMES] for place in range(0, len(each), FRAMES)]
        found["one frame"] += [texts[FRAMES // 2] for texts in by_film]
        found["most frequent of the frames"] += [Counter(texts).most_common(1)[0][0] for texts in by_film]
        found["film, tokens of all frames"] += named(joined, processor, films, "videos")
        found["film, mean over time"] += named(averaged, processor, films, "videos")
    scores = {way: exact_match(texts, names) for way, texts in found.items()}
    print(f"{options.model}: {len(items)} films of {FRAMES} frames; {experiments.versions()}\n")
    print(f"{'exact match':32}{'95 %':24}less the drawing as it is")
    for way, score in scores.items():
        value, low, high = score.interval()
        beside = compare(score, scores["the drawing as it is"])
        told = f"{beside.difference:+.3f} [{beside.low:+.3f}, {beside.high:+.3f}]"
        print(f"{way:32}{f'{value:.3f} [{low:.3f}, {high:.3f}]':24}{told}")


if __name__ == "__main__":
    main()
