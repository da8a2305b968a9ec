"""Teaches a captioner of drawings how often it is right: the chances that `mm caption` tells, and when it is unsure.

    python -m mm.recipes.calibrated runs/mm-tiny/mm-tiny

Every second Twemoji drawing of a known name, a style that training never sees, fits the calibration that is kept in
the folder; the others are left for measuring it (`benchmarks/known_unknown.py`).
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from ..evaluation.calibration import Calibration, calibrate, mean_log_probabilities
from ..evaluation.captions import exact_match
from .emoji import DEV_VENDOR, load_items, render, split_of

SIZE = 256  # pixels of a drawing


@torch.no_grad()
def read(model: Any, processor: Any, pictures: list[Image.Image]) -> tuple[list[str], np.ndarray]:
    """The greedy caption of each picture, and its mean log-probability."""
    captions, scores = [], []
    for start in range(0, len(pictures), 64):
        inputs = processor(images=pictures[start : start + 64], return_tensors="pt")
        output = model.generate(**inputs, num_beams=1, return_dict_in_generate=True, output_scores=True)
        captions += processor.batch_decode(output.sequences, skip_special_tokens=True)
        scores += mean_log_probabilities(model, output)
    return captions, np.array(scores)


def calibrated(model: Any, processor: Any) -> tuple[Calibration, np.ndarray, np.ndarray]:
    """(calibration, scores, whether right) on Twemoji's known names; it is fitted to those with even numbers."""
    items = [item for item in load_items([DEV_VENDOR]) if split_of(item.concept) == "seen"]
    captions, scores = read(model, processor, [render(item.svg, SIZE) for item in items])
    right = exact_match(captions, [item.label for item in items]).per_item > 0
    return calibrate(scores[::2], right[::2]), scores, right


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a folder; its generation_config.json is written anew")
    options = parser.parse_args(arguments)
    model = AutoModelForImageTextToText.from_pretrained(options.model).eval()
    calibration = calibrated(model, AutoProcessor.from_pretrained(options.model))[0]
    calibration.keep(model)
    model.generation_config.save_pretrained(options.model)
    print(calibration)


if __name__ == "__main__":
    main()
