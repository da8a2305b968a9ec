"""A contact sheet: what the model will really see of some samples, as one picture.

Pixels are taken from the collated batch and turned back into colours; texts are the decoded tokens and labels beside
them. So what is cut off, masked, augmented or joined wrongly shows.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

IGNORED = -100
SIDE, WIDTH, GAP = 224, 1000, 12  # pixels
FRAMES, ROWS = 4, 3  # how many of a video, and of the texts of a picture
MASKED = 128  # grey, of patches that are hidden from the tower


@dataclass
class Seen:
    """One context of a batch: its pictures as uint8 (H, W, 3), and (name, text) lines."""

    pictures: list[np.ndarray] = field(default_factory=list)
    lines: list[tuple[str, str]] = field(default_factory=list)


def seen_in(batch: Mapping[str, Any], processor: Any, patch_size: int | None = None) -> list[Seen]:
    """What each context of a batch holds; without media, what each row holds."""
    names = ("pixel_values", "pixel_values_videos", "input_features")
    media = next((batch[name] for name in names if name in batch), None)
    ids = batch.get("input_ids")
    rows = 0 if ids is None else len(ids)
    count = rows if media is None else len(media)
    index = batch.get("context_index")
    owners = index.tolist() if index is not None else [row * count // max(rows, 1) for row in range(rows)]
    found = []
    for number in range(count):
        own = [row for row, owner in enumerate(owners) if owner == number]
        seen = Seen(_pictures(batch, number, processor, patch_size))
        for row in own[:ROWS]:
            seen.lines += _lines(batch, row, processor)
        if len(own) > ROWS:
            seen.lines.append(("", f"and {len(own) - ROWS} more texts"))
        if not own and "labels" in batch:
            seen.lines.append(("label", str(batch["labels"][number].tolist())))
        found.append(seen)
    return found


def _lines(batch: Mapping[str, Any], row: int, processor: Any) -> list[tuple[str, str]]:
    ids, mask, labels = batch["input_ids"][row], batch["attention_mask"][row].bool(), batch.get("labels")
    labels = batch.get("lm_targets") if labels is None else labels
    lines = []
    if "context_input_ids" in batch and len(batch["context_input_ids"]) == len(batch["input_ids"]):
        contexts, real = batch["context_input_ids"][row], batch["context_attention_mask"][row].bool()
        lines.append(("text encoder reads", _decoded(processor, contexts[real])))
    lines.append(("model reads", _decoded(processor, ids[mask])))
    if "masked_input_ids" in batch:
        lines.append(("with masks", _decoded(processor, batch["masked_input_ids"][row][mask])))
    if labels is not None and labels.shape == batch["input_ids"].shape:
        learned = labels[row][labels[row] != IGNORED]
        lines.append(("learns to write", _decoded(processor, learned) if len(learned) else "nothing"))
    elif labels is not None:
        lines.append(("label", str(labels[row].tolist())))
    return lines


def _decoded(processor: Any, ids: torch.Tensor) -> str:
    return processor.tokenizer.decode(ids, skip_special_tokens=False)


def _pictures(batch: Mapping[str, Any], number: int, processor: Any, patch_size: int | None) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    if "pixel_values" in batch:
        pixels, masks = batch["pixel_values"][number], batch.get("bool_masked_pos")
        hidden = None if masks is None else masks[number].reshape(-1, masks.shape[-1])
        for place, one in enumerate(pixels.reshape(-1, *pixels.shape[-3:])):
            colours = colours_of(one, processor.image_processor)
            found.append(colours if hidden is None or not patch_size else _hide(colours, hidden[place], patch_size))
    if "pixel_values_videos" in batch:
        frames = batch["pixel_values_videos"][number]
        frames = frames.reshape(-1, *frames.shape[-3:])
        chosen = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)
        found += [colours_of(frames[place], processor.image_processor) for place in chosen]
    if "input_features" in batch:
        found += [_spectrogram(one) for one in _clips(batch["input_features"][number])]
    return found


def colours_of(pixels: torch.Tensor, image_processor: Any) -> np.ndarray:
    """uint8 (H, W, 3) of the (3, H, W) that an image processor made: rescaling and normalisation undone."""
    values = pixels.detach().cpu().double().numpy().transpose(1, 2, 0)
    if image_processor.do_normalize:
        values = values * np.array(image_processor.image_std) + np.array(image_processor.image_mean)
    if image_processor.do_rescale:
        values = values / image_processor.rescale_factor
    return values.round().clip(0, 255).astype(np.uint8)


def _hide(picture: np.ndarray, masked: torch.Tensor, patch: int) -> np.ndarray:
    shown, columns = picture.copy(), picture.shape[1] // patch
    for place in masked.nonzero().flatten().tolist():
        top, left = place // columns * patch, place % columns * patch
        shown[top : top + patch, left : left + patch] = MASKED
    return shown


def _clips(features: torch.Tensor) -> list[torch.Tensor]:
    return list(features) if features.ndim > 2 else [features] if features.ndim == 2 else []


def _spectrogram(features: torch.Tensor) -> np.ndarray:
    values = features.detach().cpu().float().numpy()
    values = values.reshape(-1, values.shape[-1])
    low, high = values.min(), values.max()
    grey = ((values - low) / max(high - low, 1e-9) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, -1)


def save_sheet(seen: list[Seen], path: str | os.PathLike) -> None:
    """A PNG with a band for each context: its pictures, and its texts next to them."""
    font = ImageFont.load_default(15)
    bands = [_band(one, font) for one in seen]
    height = sum(band.height for band in bands) + GAP * (len(bands) + 1)
    sheet = Image.new("RGB", (WIDTH, max(height, GAP)), "white")
    top = GAP
    for band in bands:
        sheet.paste(band, (0, top))
        top += band.height + GAP
    sheet.save(path, "PNG")


def _band(seen: Seen, font: Any) -> Image.Image:
    side = SIDE if len(seen.pictures) < 2 else SIDE // 2
    thumbs = [_sized(Image.fromarray(picture), side) for picture in seen.pictures[: 2 * FRAMES]]
    columns = 1 if len(thumbs) < 2 else 2
    text_left = GAP + (columns * (side + GAP) if thumbs else 0)
    wrapped = [(name, _wrapped(text, font, WIDTH - text_left - GAP - 140)) for name, text in seen.lines]
    text_height = sum(20 * len(lines) + 6 for _, lines in wrapped)
    high = max((thumb.height for thumb in thumbs), default=0) + GAP
    band = Image.new("RGB", (WIDTH, max(-(-len(thumbs) // columns) * high, text_height, 30)), "white")
    draw, top = ImageDraw.Draw(band), 0
    for place, thumb in enumerate(thumbs):
        x, y = GAP + place % columns * (side + GAP), place // columns * high + 1
        band.paste(thumb, (x, y))
        draw.rectangle((x - 1, y - 1, x + thumb.width, y + thumb.height), outline=(200, 200, 200))
    for name, lines in wrapped:
        draw.text((text_left, top), name, fill=(90, 90, 90), font=font)
        for line in lines:
            draw.text((text_left + 140, top), line, fill="black", font=font)
            top += 20
        top += 6
    return band


def _sized(picture: Image.Image, side: int) -> Image.Image:
    """At most `side` pixels; small pictures are enlarged by whole numbers, so that their pixels show."""
    if max(picture.size) * 2 <= side:
        times = side // max(picture.size)
        return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    picture.thumbnail((side, side))
    return picture


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    lines = [""]
    for word in text.split(" ") or [""]:
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines[:8] + (["…"] if len(lines) > 8 else [])
