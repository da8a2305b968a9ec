"""The code of a model card, run while the card is written: what the card says it prints, it printed."""

import base64
import io
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers.utils import logging

from .bare_card import USES
from .shown import read_predictions

logger = logging.get_logger(__name__)

PICTURE = "picture.png"  # what the reader of a card puts in its place
REPOSITORY = "name/of-this-repository"
ENDS = {
    "MMForConditionalGeneration": (
        "ids = model.generate(**inputs)\n"
        "print(processor.batch_decode(ids{start}, skip_special_tokens=True)[0])\n"
    ),
    "MMForSequenceClassification": (
        "print(model.config.id2label[model(**inputs).logits.argmax().item()])\n"
    ),
    "multi_label_classification": (
        "shares = model(**inputs).logits[0].sigmoid().tolist()\n"
        "print({model.config.id2label[number]: round(share, 3) for number, share in enumerate(shares)})\n"
    ),
    "regression": "print(model(**inputs).logits[0].tolist())\n",
    "MMForImageTextRetrieval": "print(model(**inputs).logits_per_image.softmax(-1))\n",
    "MMForPreTraining": "print(tuple(model(**inputs).image_embeds.shape))\n",
}  # fmt: skip
QUESTION = "What is in the picture?"
TEXTS = '["a photograph", "a drawing"]'  # that retrieval compares


@dataclass
class Snippet:
    """code: for the card. printed: what it printed; None where it could not be run, and why."""

    code: str
    printed: str | None
    on: str = ""  # what the picture was
    why: str = ""


def run_snippet(folder: Path, model: Any) -> Snippet | None:
    """The code that loads the model of a folder and reads one picture, run in this process.

    None for a model that reads no pictures.
    """
    kind = type(model).__name__
    if kind not in ENDS or "image" not in (getattr(model.config, "modalities", None) or []):
        return None
    picture, prompt, on = _sample(folder)
    in_text = model.config.media_in_text
    code = code_of(kind, prompt, getattr(model.config, "problem_type", None), in_text)
    try:
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / PICTURE
            picture.save(path)
            printed = _run(
                code.replace(f'"{REPOSITORY}"', repr(str(folder.resolve()))).replace(f'"{PICTURE}"', repr(str(path)))
            )
    except Exception as fault:  # whatever a run of a reader's code may raise: the card then claims nothing
        logger.warning(
            f"the code of the model card could not be run, so the card does not show what it prints: {fault}"
        )
        return Snippet(code, None, on, f"{type(fault).__name__}: {fault}")
    return Snippet(code, printed, on)


def code_of(kind: str, prompt: str | None, problem_type: str | None = None, in_text: bool = False) -> str:
    """The code of a class, with a prompt for a model that answers one. problem_type: of a classifier. in_text: whether
    the media stand in the text, so that there always is one."""
    auto = USES[kind][0]
    prompt = QUESTION if in_text and prompt is None else prompt
    text = TEXTS if kind == "MMForImageTextRetrieval" else None if prompt is None else _literal(prompt)
    given = f'"{PICTURE}"' if text is None else f'"{PICTURE}", text={text}'
    start = '[:, inputs["input_ids"].shape[1] :]' if prompt is not None else ""
    given = f'"{PICTURE}", **processor.about("image", {_literal(prompt or "")})' if in_text else given
    images = given if kind != "MMForImageTextRetrieval" else f'images=["{PICTURE}"], text=[{TEXTS}]'
    is_classifier = kind == "MMForSequenceClassification"
    end = ENDS[str(problem_type)] if is_classifier and problem_type in ENDS else ENDS[kind].format(start=start)
    return (
        "import mm  # the package mm-transformers\n"
        f"from transformers import {auto}, AutoProcessor\n\n"
        f'name = "{REPOSITORY}"\n'
        f"model = {auto}.from_pretrained(name)\n"
        "processor = AutoProcessor.from_pretrained(name)\n"
        f'inputs = processor({images}, return_tensors="pt")\n' + end
    )


def _literal(text: str) -> str:
    return repr(text)


def _sample(folder: Path) -> tuple[Image.Image, str | None, str]:
    """A picture of the evaluation with its prompt, or a plain one."""
    for line in read_predictions(folder):
        if str(line.get("picture", "")).startswith("data:image/png;base64,"):
            held = io.BytesIO(base64.b64decode(line["picture"].partition(",")[2]))
            return Image.open(held).convert("RGB"), line.get("prompt"), "a small copy of a picture of the evaluation"
    return Image.new("RGB", (224, 224), "red"), None, "a plain red picture"


def _run(code: str) -> str:
    held = io.StringIO()
    with torch.random.fork_rng(), redirect_stdout(held):
        exec(compile(code, "the code of the model card", "exec"), {"__name__": "card"})
    return held.getvalue().strip()
