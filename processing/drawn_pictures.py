"""Pictures as ids of a vocabulary: the codes of an image tokenizer, each moved by `first_id`.

    row    =  bos  prompt …  begin  id × N  end
    labels = -100   -100 …   -100   id × N  end        shifted inside the model

N codes of a picture, in raster order; R pictures.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from .images.limits import MediaDecodeError
from .images.processor import MMImageProcessorPil

logger = logging.getLogger(__name__)

BATCH = 64  # pictures that the image tokenizer takes at a time
_LAYOUT = ("first_id", "codebook_size", "grid", "begin_id", "end_id", "mask_id")


@dataclass(frozen=True)
class PictureIds:
    """What a row that draws ends with, in the place of a suffix: begin, the ids of a picture, end."""

    ids: tuple[int, ...]


def check_image_tokenizer(image_tokenizer: Any) -> Any:
    """The image tokenizer, evaluated; None stays None. Raises TypeError for what cannot encode and decode."""
    if image_tokenizer is None:
        return None
    if not (callable(getattr(image_tokenizer, "encode", None)) and callable(getattr(image_tokenizer, "decode", None))):
        raise TypeError(f"image_tokenizer is an MMImageTokenizer or None; got {type(image_tokenizer).__name__}")
    channels = getattr(image_tokenizer.config, "num_channels", 3)
    if channels != 3:
        raise ValueError(f"image_tokenizer reads pictures of num_channels={channels}; a processor's have 3, RGB")
    return image_tokenizer.eval()


def layout(tokenizer: Any, image_tokenizer: Any, drawing: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Where the codes stand among the ids: as given, or begin, end, mask and the codes after the tokenizer's ids.

    Raises: ValueError where a given layout is not of this image tokenizer, or there is no image tokenizer.
    """
    if drawing is not None and not isinstance(drawing, Mapping):
        raise TypeError(f"drawing={drawing!r:.80}; accepted is a dict with {', '.join(_LAYOUT)}, or None")
    if image_tokenizer is None:
        return None if drawing is None else _checked(dict(drawing))
    own = {"codebook_size": int(image_tokenizer.codebook_size), "grid": [int(side) for side in image_tokenizer.grid]}
    if drawing is None:
        after = 0 if tokenizer is None else len(tokenizer)
        return {"first_id": after + 3, **own, "begin_id": after, "end_id": after + 1, "mask_id": after + 2}
    made = _checked(dict(drawing))
    for name, value in own.items():
        if (list(made[name]) if name == "grid" else made[name]) != value:
            raise ValueError(f"drawing has {name}={made[name]}, but the image tokenizer {value}")
    return {**made, "grid": own["grid"]}


def _checked(drawing: dict[str, Any]) -> dict[str, Any]:
    missing, unknown = [n for n in _LAYOUT[:-1] if drawing.get(n) is None], sorted(set(drawing) - set(_LAYOUT))
    if missing or unknown:
        lacks = f" lacks {', '.join(missing)}" * bool(missing)
        more = f" has no place for {', '.join(unknown)}" * bool(unknown)
        raise ValueError(f"drawing{' and'.join(filter(None, (lacks, more)))}; it is a dict of {', '.join(_LAYOUT)}")
    made = {"mask_id": None, **drawing}
    _check_apart(made)
    return made


def _check_apart(drawing: Mapping[str, Any]) -> None:
    """Raises ValueError or TypeError for ids that are no ids, or that stand for two things."""
    grid = drawing["grid"]
    if not isinstance(grid, (list, tuple)) or len(grid) != 2:
        raise TypeError(f"drawing has grid={grid!r}; it is [rows, columns]")
    around = {name: drawing[name] for name in ("begin_id", "end_id", "mask_id") if drawing[name] is not None}
    numbers = {"first_id": drawing["first_id"], "codebook_size": drawing["codebook_size"], **around}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < (name == "codebook_size"):
            raise ValueError(f"drawing has {name}={value!r}; it is a whole number from {int(name == 'codebook_size')}")
    codes = range(drawing["first_id"], drawing["first_id"] + drawing["codebook_size"])
    for number, (name, value) in enumerate(around.items()):
        if value in codes:
            raise ValueError(f"drawing has {name}={value}, a code of a picture: {codes.start}..{codes.stop - 1}")
        if same := [other for other, held in list(around.items())[:number] if held == value]:
            raise ValueError(f"drawing has {name}={value}, which is {same[0]} too; give another id")


def _tokenizer_of(processor: Any) -> Any:
    if processor.image_tokenizer is None:
        raise ValueError(
            "this processor has no image_tokenizer, which turns pictures into codes and back: "
            "MMProcessor(..., image_tokenizer=MMImageTokenizer.from_pretrained(...))"
        )
    return processor.image_tokenizer


# ---- pictures to ids ------------------------------------------------------------------------------------------------


def encoded_pictures(processor: Any, images: Any) -> torch.Tensor:
    """A picture or a list of R -> int64 (R, N), ids of the vocabulary. Raises as `load_image` does."""
    tokenizer = _tokenizer_of(processor)
    pictures = list(images) if isinstance(images, (list, tuple)) else [images]
    if not pictures:
        raise ValueError("images is an empty list; give a picture or several")
    codes = []
    for start in range(0, len(pictures), BATCH):
        with torch.no_grad():
            codes.append(tokenizer.encode(_pixels(tokenizer, pictures[start : start + BATCH])).cpu())
    return torch.cat(codes).long() + processor.drawing["first_id"]


def _pixels(tokenizer: Any, pictures: list) -> torch.Tensor:
    """(B, 3, H, W) in 0..1; alpha is laid on white, and so is a picture of another aspect."""
    height, width = tokenizer.config.image_sides
    read = MMImageProcessorPil(size={"height": height, "width": width}, resize_mode="pad", do_normalize=False)
    return read(pictures, return_tensors="pt")["pixel_values"].to(tokenizer.device, tokenizer.dtype)


def picture_ids(processor: Any, targets: Sequence[Any]) -> list[PictureIds | None]:
    """Rows to learn of pictures, or of their ids (N,); None stays None. All pictures are encoded together."""
    own = {index: _given_ids(processor, target) for index, target in enumerate(targets) if _is_ids(target)}
    read = [index for index, target in enumerate(targets) if target is not None and index not in own]
    if read:
        encoded = encoded_pictures(processor, [targets[index] for index in read]).tolist()
        own |= dict(zip(read, encoded, strict=True))
    begin, end = (
        (0, 0) if processor.drawing is None else (processor.drawing[f"{name}_id"] for name in ("begin", "end"))
    )
    return [PictureIds((begin, *own[index], end)) if index in own else None for index in range(len(targets))]


def _is_ids(target: Any) -> bool:
    """Whether a target is ids rather than a picture: a row of whole numbers, or (1, N) as encode_images gives it."""
    if isinstance(target, (list, tuple)):
        return bool(target) and all(isinstance(one, int) and not isinstance(one, bool) for one in target)
    if not isinstance(target, (np.ndarray, torch.Tensor)):
        return False
    return target.ndim == 1 or (_is_rows_of_ids(target) and len(target) == 1)


def _is_rows_of_ids(target: Any) -> bool:
    """Whether a target is an array (R, N) of the type that ids have and pictures have not."""
    is_array = isinstance(target, (np.ndarray, torch.Tensor))
    return is_array and target.ndim == 2 and str(target.dtype).rpartition(".")[2] in ("int32", "int64")


def _given_ids(processor: Any, target: Any) -> list[int]:
    if processor.drawing is None:
        raise ValueError("this processor does not know where the codes of pictures stand; give it drawing={...}")
    ids = np.asarray(target).reshape(-1).tolist()
    first, size, count = (processor.drawing["first_id"], processor.drawing["codebook_size"], _count(processor))
    if len(ids) != count or any(not isinstance(one, int) or not first <= one < first + size for one in ids):
        raise ValueError(
            f"a target picture is {count} ids in {first}..{first + size - 1}, as encode_images gives them; "
            f"got {len(ids)}, the first {ids[:3]}"
        )
    return ids


def _count(processor: Any) -> int:
    rows, columns = processor.drawing["grid"]
    return rows * columns


def joined_targets(processor: Any, suffix: Any, target_images: Any) -> Any:
    """The suffixes of a call with pictures among them, nested as target_images are."""
    if target_images is None:
        return suffix
    if _is_rows_of_ids(target_images):  # as encode_images gives them
        target_images = list(target_images)
    nested = isinstance(target_images, (list, tuple)) and not _is_ids(target_images)
    targets = list(target_images) if nested else [target_images]
    several = [isinstance(entry, (list, tuple)) and not _is_ids(entry) for entry in targets]
    flat = [one for entry, many in zip(targets, several, strict=True) for one in (entry if many else [entry])]
    made = iter(picture_ids(processor, flat))
    rows = [[next(made) for _ in entry] if many else next(made) for entry, many in zip(targets, several, strict=True)]
    if suffix is not None:
        given = suffix if isinstance(suffix, (list, tuple)) else [suffix]
        if len(given) != len(rows) or any(
            (one is None) == (row is None) for one, row in zip(given, rows, strict=True)
        ):
            raise ValueError(
                f"each row has a suffix or a target image: there are {len(rows)} target_images and {len(given)} "
                "suffixes, and where one has something the other has None"
            )
        rows = [one if row is None else row for one, row in zip(given, rows, strict=True)]
    return rows if nested else rows[0]


def with_targets(
    processor: Any, samples: Sequence[Mapping[str, Any]], on_error: str, on_fault: Callable[[Any], object] | None
) -> tuple[Sequence[Mapping[str, Any]], set[int]]:
    """Samples of a collator whose target_image has become their suffix, and the numbers of those whose picture cannot
    be read (on_error other than "raise")."""
    own = [index for index, sample in enumerate(samples) if sample.get("target_image") is not None]
    if not own:
        return samples, set()
    made, unread = [dict(sample) for sample in samples], set()
    for index in own:
        if made[index].get("suffix") is not None or made[index].get("label") is not None:
            raise ValueError(f"sample {index} has a target_image and a suffix or label; a row learns one of them")
    targets = [made[index].pop("target_image") for index in own]
    targets = [one[0] if isinstance(one, (list, tuple)) and len(one) == 1 else one for one in targets]
    for index, target in zip(own, targets, strict=True):
        several = _is_rows_of_ids(target) or isinstance(target, (list, tuple))
        if several and not _is_ids(target):
            raise ValueError(
                f"sample {index} has {len(target)} pictures as its target_image; it is one picture, or its ids (N,)"
            )
    try:
        rows = picture_ids(processor, targets)
    except MediaDecodeError:
        if on_error == "raise":
            raise
        rows = [_read_or_told(processor, target, on_fault) for target in targets]
    for index, row in zip(own, rows, strict=True):
        made[index]["suffix"] = "" if row is None else row
        unread |= {index} if row is None else set()
    return made, unread


def without_words(samples: Sequence[Mapping[str, Any]], draws: Any, share: float) -> list[Mapping[str, Any]]:
    """The samples of `with_targets`; of those that draw, a share has empty texts (Ho & Salimans: arXiv:2207.12598)."""
    made = []
    for sample, rng in zip(samples, draws.rngs(draws.names, "guidance"), strict=True):
        if isinstance(sample.get("suffix"), PictureIds) and rng.random() < share:
            names = [name for name in ("text", "context_text") if isinstance(sample.get(name), str)]
            sample = {**sample, **dict.fromkeys(names, "")}
        made.append(sample)
    return made


def _read_or_told(processor: Any, target: Any, on_fault: Callable[[Any], object] | None) -> PictureIds | None:
    try:
        return picture_ids(processor, [target])[0]
    except MediaDecodeError as error:
        logger.warning("left out: %s", error)
        if on_fault is not None:
            on_fault(error)
        return None


# ---- ids to pictures ------------------------------------------------------------------------------------------------


def decoded_pictures(processor: Any, ids: Any) -> list[Image.Image]:
    """R rows of ids -> R pictures. Raises ValueError for a row that is no whole picture, TypeError for other types."""
    tokenizer = _tokenizer_of(processor)
    rows = [codes_of_row(processor.drawing, row, number) for number, row in enumerate(_rows(ids))]
    pictures = []
    for start in range(0, len(rows), BATCH):
        codes = torch.tensor(rows[start : start + BATCH], device=tokenizer.device)
        with torch.no_grad():
            pixels = tokenizer.decode(codes).float()
        values = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        pictures += [Image.fromarray(np.ascontiguousarray(one)) for one in values]
    return pictures


def _rows(ids: Any) -> list[list[int]]:
    if isinstance(ids, (np.ndarray, torch.Tensor)):
        if ids.ndim not in (1, 2) or (torch.is_tensor(ids) and ids.is_floating_point()):
            raise TypeError(f"ids are whole numbers (R, T); got {ids.dtype} {tuple(ids.shape)}")
        ids = ids.tolist()
    if not isinstance(ids, (list, tuple)) or not ids:
        raise TypeError(f"ids are rows of whole numbers (R, T); got {type(ids).__name__}")
    rows = ids if isinstance(ids[0], (list, tuple, np.ndarray, torch.Tensor)) else [ids]
    made = [row.tolist() if isinstance(row, (np.ndarray, torch.Tensor)) else row for row in rows]
    for number, row in enumerate(made):
        if not isinstance(row, (list, tuple)) or not all(isinstance(one, int) for one in row):
            raise TypeError(f"ids are rows of whole numbers (R, T); row {number} is {row!r:.80}")
    return [list(row) for row in made]


def codes_of_row(drawing: Mapping[str, Any], row: list[int], number: int) -> list[int]:
    """The codes of the picture of a row: of all of it, or of what stands after the last begin."""
    first, size = drawing["first_id"], drawing["codebook_size"]
    count = drawing["grid"][0] * drawing["grid"][1]
    begin = drawing["begin_id"]
    start = len(row) - row[::-1].index(begin) if begin in row else 0
    inside = row[start : start + count]
    found = [one - first for one in inside if first <= one < first + size]
    after = row[start + count : start + count + 1]
    if len(found) != count or (start == 0 and len(row) > count and after != [drawing["end_id"]]):
        raise ValueError(
            f"row {number} is no whole picture: of the {count} ids that a picture has {len(found)} are codes, which "
            f"are {first}..{first + size - 1}"
        )
    if after and first <= after[0] < first + size:
        raise ValueError(f"row {number} has more than the {count} codes of a picture")
    return found
