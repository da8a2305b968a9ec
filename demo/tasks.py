"""What the page asks of models, in pictures' paths and plain values: nothing here knows the page.

H, V height and width of a picture in pixels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..cli.ask import Asker
from ..cli.explain import explained_inputs
from ..cli.transcribe import transcribe
from ..evaluation.calibration import mean_log_probabilities
from ..explaining.explanation import Explanation
from ..modeling_mm.tasks.classification import class_scores
from ..processing.images.load import load_image
from ..processing.pipelines import LONGEST_SPEECH
from ..processing.sounds.load import load_sound

SIDE = 640  # pixels of the longer side of a picture that is drawn on
GLOW = np.array([255.0, 176.0, 0.0])


def captions(model: Any, processor: Any, picture: Path, beams: int) -> tuple[list[tuple[str, float]], Explanation]:
    """Each beam's caption with the mean log-probability of its tokens, the best first, and the first one explained."""
    inputs, _ = explained_inputs(model, processor, picture)
    written = model.generate(
        **inputs, num_beams=beams, num_return_sequences=beams, return_dict_in_generate=True, output_scores=True
    )
    start = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0  # after what the picture was asked with
    texts = processor.batch_decode(written.sequences[:, start:], skip_special_tokens=True)
    scores = mean_log_probabilities(model, written)
    if model.config.media_in_text:  # its layers have no weights over the picture alone: parts of it are covered
        tokens, method = written.sequences[:1], "occlusion"
    else:
        tokens, method = written, "attention"
    found = model.explain(inputs, tokens, method=method, processor=processor, pictures=[picture])[0]  # of the best
    return [(" ".join(text.split()), score) for text, score in zip(texts, scores, strict=True)], found


def over_picture(picture: Path, found: Explanation, word: int) -> Image.Image:
    """The picture in grey, and in colour where the word was read."""
    shown = load_image(picture)
    shown.thumbnail((SIDE, SIDE))
    strength = found.items[0].over_picture((shown.height, shown.width))[word]  # (H, V)
    strength = (strength / max(float(strength.max()), 1e-12))[..., None]
    grey = np.asarray(shown.convert("L"), np.float32)[..., None] * 0.8
    cover = 0.75 * strength
    return Image.fromarray((grey * (1 - cover) + GLOW * cover).clip(0, 255).astype(np.uint8))


def answers(model: Any, processor: Any, picture: Path, questions: str, most: int) -> list[list[str]]:
    """[question, answer] of each line, `most` lines at most. The picture is encoded once."""
    asked = [line.strip() for line in questions.splitlines() if line.strip()]
    if not 0 < len(asked) <= most:
        raise ValueError(f"{len(asked)} questions; write one a line, {most} at most")
    asker = Asker(model, processor, picture)
    return [[question, asker.write(question, {}) or "(the model wrote nothing)"] for question in asked]


def labels(model: Any, processor: Any, picture: Path, wanted: str) -> dict[str, float]:
    """Scores of the labels that are parted by commas; of a classification head its own."""
    if hasattr(model, "encode_labels"):
        names = [name.strip() for name in wanted.split(",") if name.strip()]
        if not names:
            raise ValueError("no labels: write some, with commas between them")
        found = model.encode_labels(names, processor=processor)
        scores = model.label_scores(model.encode([{"image": picture}], processor=processor), found)
    else:
        names = [model.config.id2label[number] for number in range(model.config.num_labels)]
        inputs = processor(images=[picture], return_tensors="pt").to(model.device)
        with torch.no_grad():
            scores = class_scores(model.config, model(**inputs).logits.float())
    return dict(zip(names, scores[0].tolist(), strict=True))


def hits(
    model: Any, processor: Any, index: Any, text: str, picture: Path | None, top_k: int = 12
) -> list[tuple[Image.Image, str]]:
    """(small picture, score and name) of the files of an index that are most like a text, a picture, or both."""
    item = {name: value for name, value in {"text": text.strip(), "image": picture}.items() if value}
    if not item:
        raise ValueError("nothing to look for: write a text, or give a picture")
    (found,) = model.search([item], index, min(top_k, len(index)), processor=processor)
    shown = []
    for hit in found:
        small = load_image(hit["path"], draft_size=256)
        small.thumbnail((256, 256))
        shown.append((small, f"{hit['score']:.3f}  {Path(hit['path']).name}"))
    return shown


def spoken(model: Any, processor: Any, sound: Path) -> str:
    """What is said, a line for each segment with its seconds."""
    rate = processor.feature_extractor.sampling_rate
    samples = load_sound(sound, rate, max_seconds=LONGEST_SPEECH)
    segments: Sequence[Any] = list(transcribe([samples], model, processor))
    return "\n".join(f"{one.start:.1f}–{one.end:.1f} s  {one.text}" for one in segments)
