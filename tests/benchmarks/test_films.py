"""benchmarks/films.py: a film of a moved drawing gets the name of the drawing."""

from pathlib import Path

import films
import numpy as np
from PIL import Image
from transformers import AutoProcessor

ROOT = Path(__file__).resolve().parents[2]


def test_a_film_wanders_over_a_white_canvas():
    frames = films.film(Image.new("RGBA", (64, 64), "red"), np.random.default_rng(0))
    assert len(frames) == films.FRAMES and {frame.size for frame in frames} == {(films.SIDE, films.SIDE)}
    red = [np.asarray(frame)[..., 1] < 128 for frame in frames]
    assert all(mask.any() and not mask.all() for mask in red)
    centres = [np.argwhere(mask).mean(0) for mask in red]
    assert np.abs(centres[0] - centres[-1]).max() > 10


def test_the_shipped_model_names_a_film_as_its_drawing():
    model = ROOT / "checkpoints" / "mm-tiny"
    processor = AutoProcessor.from_pretrained(model)
    rng, made = np.random.default_rng(1), []
    for name in ("rocket", "penguin", "guitar"):
        with Image.open(ROOT / "examples" / "pictures" / f"{name}.png") as picture:
            white = np.asarray(picture.convert("RGB")).min(-1) > 250
            drawing = picture.convert("RGBA")
            drawing.putalpha(Image.fromarray((~white * 255).astype(np.uint8)))
        made.append(films.film(drawing, rng))
    for pooling in ("none", "time"):
        opened = films.opened(model, pooling)
        assert films.named(opened, processor, made, "videos") == ["rocket", "penguin", "guitar"]
